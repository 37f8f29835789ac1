"""Tables of layers, as text and HTML."""

from __future__ import annotations

from html import escape
from typing import Any

from ._trace import Trace, retraced


def table(head: list[str], rows: list[list[str]], right: set[int] | frozenset[int] = frozenset()) -> str:
    """Columns of text; those in `right` are set to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: list[str]) -> str:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])


def html_table(
    head: list[str], rows: list[list[str]], right: set[int] | frozenset[int] = frozenset(), caption: str = ""
) -> str:
    """The same as HTML."""

    def cell(tag: str, text: str, i: int) -> str:
        return f'<{tag} style="text-align:{"right" if i in right else "left"}">{escape(text)}</{tag}>'

    top = "<tr>" + "".join(cell("th", text, i) for i, text in enumerate(head)) + "</tr>"
    body = "".join("<tr>" + "".join(cell("td", text, i) for i, text in enumerate(row)) + "</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><thead>{top}</thead><tbody>{body}</tbody></table>"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "(" + ", ".join(["B", *map(str, shape)]) + ")"


@retraced
def _traced(net: Any, input_shape: tuple[int, ...]) -> Trace:
    with Trace(net) as trace:
        net(trace.input("x", input_shape))
    return trace


class Summary:
    """Layers of a network in the order of their calls: `rows` holds (path, kind, output shape of one sample,
    parameters); `parameters` the total."""

    def __init__(self, net: Any, input_shape: tuple[int, ...]) -> None:
        trace = _traced(net, input_shape)
        self.input_shape = input_shape
        self.parameters = sum(parameter.numel() for parameter in net.parameters())
        self.trainable = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
        self.rows: list[tuple[str, str, tuple[int, ...] | None, int]] = []
        counted: set[int] = set()
        for name, module, shape in trace.calls:
            own = [parameter for parameter in module.parameters(recurse=False) if id(parameter) not in counted]
            counted.update(map(id, own))
            if module is net and list(net.children()):
                name = ""
            self.rows.append((name, type(module).__name__, shape, sum(parameter.numel() for parameter in own)))

    def _cells(self) -> list[list[str]]:
        return [
            [name or "(whole)", kind, _shape(shape), f"{count:,}" if count else "-"]
            for name, kind, shape, count in self.rows
        ]

    def _caption(self) -> str:
        frozen = self.parameters - self.trainable
        return (
            f"{self.parameters:,} parameters"
            + (f", of which {frozen:,} fixed" if frozen else "")
            + f"; input {_shape(self.input_shape)}"
        )

    def __str__(self) -> str:
        return table(["layer", "kind", "output", "parameters"], self._cells(), {3}) + "\n" + self._caption()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(["layer", "kind", "output", "parameters"], self._cells(), {3}, self._caption())


def html(net: Any) -> str:
    """A network as a table; with output shapes once it has been compiled."""
    shape = net.__dict__.get("_input_shape")
    if shape is not None:
        return str(Summary(net, shape)._repr_html_())
    rows = []
    for name, module in net.named_modules():
        if not list(module.children()):
            count = sum(parameter.numel() for parameter in module.parameters())
            rows.append([name or "(whole)", repr(module), f"{count:,}" if count else "-"])
    total = sum(parameter.numel() for parameter in net.parameters())
    return html_table(["layer", "module", "parameters"], rows, {2}, f"{type(net).__name__}: {total:,} parameters")
