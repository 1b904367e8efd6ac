"""Opens pages in a real headless browser, in frames of several widths, and says what it found."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless=new",
    "--no-sandbox",  # as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--enable-logging=stderr",
    "--dump-dom",  # once the load event is over
]
LOOK = """
function look(frame) {
  const page = frame.contentDocument, room = page.documentElement.clientWidth;  // without the scroll bar
  const outside = [...page.body.querySelectorAll("*")].filter(
    one => !one.closest(".scroll > *") && one.getBoundingClientRect().right > room + 0.5);
  return {
    width: frame.clientWidth,
    scrolls: page.documentElement.scrollWidth > room,
    outside: outside.map(one => one.outerHTML.slice(0, 80)),
    images: page.images.length,
    broken: [...page.images].filter(image => !image.naturalWidth).length,
    nameless: [...page.images].filter(image => !image.alt).length,
    requests: frame.contentWindow.performance.getEntriesByType("resource").map(one => one.name),
    scripts: page.scripts.length,
    text: page.body.innerText,
  };
}
addEventListener("load", () => {  // of all frames and their images
  document.body.dataset.found = JSON.stringify([...document.querySelectorAll("iframe")].map(look));
});
"""


class Seen(NamedTuple):
    """What each frame holds, and what the browser wrote to its console."""

    frames: list[dict[str, Any]]
    console: list[str]


def open_pages(pages: Sequence[str], widths: Sequence[int], folder: Path) -> Seen:
    """Opens each page in a frame of each width; `folder` is the browser's own."""
    frames = [
        f'<iframe width="{width}" height="800" style="border:0" srcdoc="{html.escape(page)}"></iframe>'
        for page in pages
        for width in widths
    ]
    (folder / "frames.html").write_text(f"<!DOCTYPE html><body>{''.join(frames)}<script>{LOOK}</script>")
    done = subprocess.run(
        [str(BROWSER), *FLAGS, f"--user-data-dir={folder / 'profile'}", (folder / "frames.html").as_uri()],
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, f"the browser ended with {done.returncode}: {done.stderr[-2000:]}"
    return Seen(json.loads(html.unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line])
