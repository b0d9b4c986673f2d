"""The explorer's looks: a theme of its own, and the page's head with styles, strings and scripts."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr

from components.i18n import LANGUAGES, default_language, strings

ASSETS = Path(__file__).parent.parent / "assets"
FONTS = {400: "Regular", 600: "SemiBold", 800: "ExtraBold"}
FACE = (
    "Pretendard",
    "system-ui",
    "-apple-system",
    "Apple SD Gothic Neo",
    "Malgun Gothic",
    "Noto Sans KR",
    "sans-serif",
)


def theme() -> gr.themes.Base:
    """Ink on paper with two accents: violet for embeddings, coral for pictures."""
    made = gr.themes.Base(
        font=FACE,
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "monospace"),
        radius_size=gr.themes.sizes.radius_lg,
        text_size=gr.themes.sizes.text_md,
    )
    values = {
        "body_background_fill": "var(--paper)",
        "body_text_color": "var(--ink)",
        "body_text_color_subdued": "var(--ink-soft)",
        "background_fill_primary": "var(--card)",
        "background_fill_secondary": "var(--paper)",
        "block_background_fill": "var(--card)",
        "block_border_color": "var(--line)",
        "block_label_text_color": "var(--ink-soft)",
        "block_title_text_color": "var(--ink)",
        "block_info_text_color": "var(--ink-soft)",
        "block_border_width": "0px",
        "block_label_background_fill": "var(--card)",
        "panel_background_fill": "var(--card)",
        "border_color_primary": "var(--line)",
        "border_color_accent": "var(--coral)",
        "color_accent": "var(--coral)",
        "color_accent_soft": "var(--coral-soft)",
        "input_background_fill": "var(--field)",
        "input_border_color": "var(--line)",
        "input_placeholder_color": "var(--ink-faint)",
        "input_background_fill_focus": "var(--card)",
        "input_border_color_focus": "var(--coral)",
        "slider_color": "var(--coral)",
        "checkbox_background_color": "var(--card)",
        "checkbox_border_color": "var(--ink-faint)",
        "checkbox_background_color_selected": "var(--coral)",
        "checkbox_border_color_selected": "var(--coral)",
        "checkbox_label_background_fill": "var(--field)",
        "checkbox_label_background_fill_hover": "var(--field)",
        "checkbox_label_background_fill_selected": "var(--coral-soft)",
        "checkbox_label_text_color": "var(--ink)",
        "checkbox_label_text_color_selected": "var(--ink)",
        "checkbox_label_border_color": "var(--line)",
        "checkbox_label_border_color_selected": "var(--coral)",
        "button_primary_background_fill": "var(--coral)",
        "button_primary_background_fill_hover": "var(--coral-deep)",
        "button_primary_text_color": "var(--on-coral)",
        "button_primary_border_color": "transparent",
        "button_secondary_background_fill": "var(--field)",
        "button_secondary_background_fill_hover": "var(--line)",
        "button_secondary_text_color": "var(--ink)",
        "button_secondary_border_color": "var(--line)",
        "button_cancel_background_fill": "transparent",
        "button_cancel_background_fill_hover": "var(--field)",
        "button_cancel_text_color": "var(--ink)",
        "button_cancel_border_color": "var(--line)",
        "error_background_fill": "var(--card)",
        "error_border_color": "var(--coral)",
        "error_text_color": "var(--ink)",
        "link_text_color": "var(--violet)",
        "table_border_color": "var(--line)",
        "stat_background_fill": "var(--coral-soft)",
    }
    known = set(vars(made))
    return made.set(
        **{name + suffix: value for name, value in values.items() for suffix in ("", "_dark") if name + suffix in known}
    )


def head(talk: bool = False) -> str:
    """Styles, strings and scripts, all inline: the page needs nothing but this server."""
    page = {"talk": talk, "strings": strings(), "languages": LANGUAGES, "lang": default_language()}
    data = json.dumps(page, ensure_ascii=False).replace("</", "<\\/")
    scripts = "\n".join(
        path.read_text(encoding="utf-8") for path in sorted((ASSETS / "js").glob("*.js"), key=_page_first)
    )
    styles = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ASSETS / "css").glob("*.css")))
    return f"<style>{_faces()}\n{styles}</style>\n<script>const UNCLIP = {data};\n{scripts}</script>"


def _page_first(path: Path) -> tuple[bool, str]:
    return path.name != "page.js", path.name


def _faces() -> str:
    gr.set_static_paths([ASSETS / "fonts", ASSETS / "examples"])
    rules = []
    for weight, name in FONTS.items():
        path = (ASSETS / "fonts" / f"Pretendard-{name}.subset.woff2").as_posix()
        source = f"url('gradio_api/file={path}') format('woff2')"
        rules.append(f"@font-face{{font-family:Pretendard;font-weight:{weight};font-display:swap;src:{source}}}")
    return "".join(rules)
