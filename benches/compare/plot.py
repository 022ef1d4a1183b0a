"""Draws curves on two logarithmic axes as SVG, without any library."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 76, 128, 52, 58
COLOURS = ["#0b6e99", "#d1495b", "#66a182", "#b8860b", "#6b5b95", "#555555"]


def short(value):
    """A power of ten, or another number, as an axis shows it."""
    if value >= 1_000_000:
        return f"{value / 1_000_000:g} M"
    if value >= 1_000:
        return f"{value / 1_000:g} k"
    return f"{value:g}"


def draw(title, x_label, y_label, curves):
    """`curves`: name -> list of (x, y), all above zero."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return None
    x_low, x_high = (f(math.log10(x) for x, _ in points) for f in (min, max))
    y_low, y_high = (f(math.log10(y) for _, y in points) for f in (min, max))
    y_low, y_high = math.floor(y_low), max(math.ceil(y_high), math.floor(y_low) + 1)
    x_high = max(x_high, x_low + 1)

    def place(x, y):
        return (LEFT + (math.log10(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - (math.log10(y) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13" '
           f'role="img" aria-label="{escape(title)}">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
           f'<text x="{LEFT}" y="28" font-size="16" fill="#222222">{escape(title)}</text>']
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for power in range(y_low, y_high + 1):
        _, y = place(10 ** x_low, 10 ** power)
        out.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#dddddd"/>'
                   f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#444444">{short(10 ** power)}</text>')
    for power in range(math.ceil(x_low), math.floor(x_high) + 1):
        x, _ = place(10 ** power, 10 ** y_low)
        out.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#eeeeee"/>'
                   f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle" fill="#444444">{short(10 ** power)}</text>')
    out.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 14}" text-anchor="middle" fill="#222222">{escape(x_label)}</text>'
               f'<text transform="translate(20 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle" fill="#222222">{escape(y_label)}</text>')
    labels = []
    for index, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        places = [place(x, y) for x, y in sorted(curve)]
        if not places:
            continue
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        labels.append([places[-1][1], places[-1][0], name, colour])
    # Names stand at the ends of their lines, pushed apart where they would cover each other.
    labels.sort()
    for above, below in zip(labels, labels[1:]):
        below[0] = max(below[0], above[0] + 16)
    for y, x, name, colour in labels:
        out.append(f'<text x="{max(x, 0) + 8:.1f}" y="{y + 4:.1f}" fill="{colour}">{escape(name)}</text>')
    return "\n".join(out + ["</svg>"]) + "\n"
