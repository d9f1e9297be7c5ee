"""`quorum inspect`: browse a run's rollouts in a local web page."""

from __future__ import annotations

from typing import Annotated

import typer


def inspect(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Run directory, its name under runs/, or a submitted run's name.")
    ],
    against: Annotated[str | None, typer.Option(metavar="RUN", help="Another run to compare with.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Serve a run's prompts, completions and votes on 127.0.0.1 until Ctrl-C. Nothing leaves this machine.

    Works while the run is going on: new steps appear on reload. Needs no Ray, torch or vLLM.
    """
    import webbrowser

    from orchestration.jobs.lookup import run_directory
    from orchestration.watch.inspect.server import InspectServer
    from quorum.errors import ResourceError

    paths = run_directory(run), run_directory(against) if against else None
    try:
        server = InspectServer(*paths, port=port)
    except OSError as error:
        raise ResourceError(f"port {port} of 127.0.0.1 cannot be had ({error}); take another with --port") from error
    print(f"{server.url} (Ctrl-C ends it)", flush=True)
    if browser:
        webbrowser.open(server.url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("ended")
    finally:
        server.server_close()
