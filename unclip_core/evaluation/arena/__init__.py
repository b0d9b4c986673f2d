"""The paper's human protocol (section 5.2) on any two systems: matches made beforehand, blind votes, ranking."""
