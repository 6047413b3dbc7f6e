"""The house style of figures: one palette, thin lines, words in place of legends.

A plot draws into the given matplotlib Axes or a new one, and returns it; its title says what it shows, with the
number that decides. matplotlib is the extra `emberwalk[plots]`, imported when a figure is drawn.
"""

from typing import TYPE_CHECKING, Any

from .datatree import build_tree

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

INK, GREY = "#22313f", "#8a949c"
TEAL, EMBER = "#1f7a8c", "#d1603d"
COMPONENTS = (TEAL, "#c08a1e", "#6a5a8c", "#5c7f3d")  # of what has several


def as_tree(x: Any) -> "xr.DataTree":
    """The DataTree of a run, without its warnings, or the one that was given."""
    import xarray as xr

    return x if isinstance(x, xr.DataTree) else build_tree(x)


def new_axes(ax: "Axes | None", name: str) -> "Axes":
    """The Axes to draw in, in the house style; `name` is that of the plot, for its error."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(f"{name} needs matplotlib: pip install 'emberwalk[plots]'.") from error

    if ax is None:
        _, ax = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set(color=GREY, linewidth=0.6)
    ax.tick_params(color=GREY, labelcolor=INK, width=0.6, length=3, labelsize="small")
    ax.xaxis.label.set(color=INK, size="small")
    ax.yaxis.label.set(color=INK, size="small")
    ax.margins(x=0.01)
    return ax


def title(ax: "Axes", text: str, below: str = "") -> None:
    """What the figure shows, and a line of less weight `below` it."""
    ax.set_title(text, loc="left", color=INK, fontsize="medium", pad=20 if below else 8)
    # in points: a share of the height would meet the title of a high figure
    ax.annotate(
        below, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", color=GREY, fontsize="small"
    )


def note(ax: "Axes", height: float, text: str, colour: str, side: str) -> None:
    """Words at the right edge, inside, at a height of the data."""
    ax.text(
        0.995,
        height,
        text,
        transform=ax.get_yaxis_transform(),
        color=colour,
        ha="right",
        va=side,
        fontsize="small",
    )


def outside(ax: "Axes", height: float, text: str, colour: str) -> None:
    """Words beyond the right edge, at a height of the data."""
    ax.text(
        1.01, height, text, transform=ax.get_yaxis_transform(), color=colour, va="center", fontsize="small"
    )


def whole_numbers(ax: "Axes") -> None:
    """Counts below the axis, no fractions of them."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
