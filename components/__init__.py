"""The explorer's page: one file a lab, one engine, one shelf."""
