"""Draws what a command printed as a picture of a terminal, for the README.

    bin/leaky demo --for 10s | python3 docs/picture.py 'leaky demo --for 10s' > docs/demo.svg
"""
import sys
import textwrap
from xml.sax.saxutils import escape

COLUMN, LINE, MARGIN = 7.25, 17, 16  # pixels; a monospaced 12 px font
WIDEST = 150


def colour(line):
    if line.startswith("$"):
        return "#7ee787"
    if line.startswith("OK") or line.endswith(" 0 disagreements"):
        return "#56d364"
    if line.startswith(("tokens over", "books:", "events:", "estimates:")):
        return "#e6edf3"
    return "#9da7b3"


def main():
    lines = ["$ " + sys.argv[1]]
    for line in sys.stdin.read().rstrip().split("\n"):
        lines += textwrap.wrap(line, WIDEST, subsequent_indent="  ") if len(line) > WIDEST else [line]
    width = int(max(map(len, lines)) * COLUMN + 2 * MARGIN)
    height = len(lines) * LINE + 2 * MARGIN
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">')
    print(f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>')
    print('<g font-family="ui-monospace,Menlo,Consolas,monospace" font-size="12">')
    for i, line in enumerate(lines):
        print(f'<text x="{MARGIN}" y="{MARGIN + 12 + i * LINE}" fill="{colour(line)}">{escape(line).replace(" ", chr(160))}</text>')
    print("</g></svg>")


main()
