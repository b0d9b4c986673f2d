"""unCLIP Explorer: `python app.py` starts the page on the pack that ships with it, offline."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from pathlib import Path

from components import server


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Watch a caption become a picture, and look inside CLIP.")
    parser.add_argument("--pack", default="pocket", help="a pack's name or folder (default: pocket, which ships)")
    parser.add_argument(
        "--host",
        default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        help="address to listen on; 0.0.0.0 for the whole network",
    )
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", 7860)))
    parser.add_argument("--share", action="store_true", help="make a temporary public address (needs a network)")
    parser.add_argument("--lang", choices=("en", "ko"), default="en", help="language for those who have not chosen")
    parser.add_argument(
        "--talk", action="store_true", help="large type for a projector, and a check that all works offline"
    )
    parser.add_argument("--mcp", action="store_true", help="serve the labs as MCP tools too (needs gradio[mcp])")
    parser.add_argument(
        "--low-memory", action="store_true", help="keep only the stage at work in memory, and tell the peak at the end"
    )
    parser.add_argument(
        "--stand-in",
        choices=("lanczos", "pocket"),
        default="lanczos",
        help="what goes to 1024 px where published weights have no model for it",
    )
    return parser.parse_args()


def build(engine, talk: bool = False):
    """The page: header, labs as tabs, shelf."""
    import gradio as gr

    from components.arena import arena_page
    from components.create import create_tab
    from components.interpolate import interpolate_tab
    from components.limits import limits_tab
    from components.map import map_tab
    from components.page import header, translate_on_switch
    from components.pca import pca_tab
    from components.priors import priors_tab
    from components.shelf import Shelf
    from components.text_diff import text_diff_tab
    from components.tour import tour_page
    from components.typographic import typographic_tab
    from components.variations import variations_tab

    with gr.Blocks(title="unCLIP Explorer", fill_width=True, delete_cache=(600, 3600), analytics_enabled=False) as demo:
        bar = header()
        shelf = Shelf(engine)
        with gr.Tabs(elem_id="labs") as shelf.tabs:
            create_tab(engine, shelf)
            variations_tab(engine, shelf)
            interpolate_tab(engine, shelf)
            text_diff_tab(engine, shelf)
            pca_tab(engine, shelf)
            typographic_tab(engine, shelf)
            map_tab(engine, shelf)
            priors_tab(engine, shelf)
            limits_tab(engine, shelf)
        shelf.bar()
        shelf.link_from(bar)
        shelf.restore_on_load(demo)
        translate_on_switch(demo, bar)
    arena_page(demo, engine)
    tour_page(demo, engine, talk)
    return demo.queue(max_size=16, default_concurrency_limit=1, api_open=False)


def main() -> None:
    args = arguments()
    server.check_port(args.host, args.port)
    server.prepare(offline=args.pack == "pocket" or Path(args.pack).exists())
    from components import gpu, i18n, theme, worker
    from components.engine import Engine
    from unclip_core.errors import UnclipError
    from unclip_core.loading import memory_told

    i18n.set_default(args.lang)
    gpu.prepare()
    try:
        engine = worker.run(Engine.load, args.pack, args.low_memory, args.stand_in)
    except UnclipError as fault:
        sys.exit(str(fault))
    if args.low_memory:
        atexit.register(lambda: print(memory_told(engine.model.device)))
    demo = build(engine, args.talk)
    demo = gpu.place(demo) if gpu.present() else worker.place(demo)
    if args.talk:
        from components import preflight

        worker.run(preflight.report, engine, args.lang)
    server.fetch_nothing()
    options = server.launch_options(args.host, args.port, args.share, args.mcp)
    demo.launch(theme=theme.theme(), head=theme.head(args.talk), **options)


if __name__ == "__main__":
    main()
