"""Pure: sets of instants as sorted, disjoint spans [low, high)."""

from collections.abc import Iterable

Span = tuple[int, int]
Spans = list[Span]


def union(*some: Iterable[Span]) -> Spans:
    """All that is in any of these, which need be neither sorted nor disjoint."""
    out: Spans = []
    for low, high in sorted(span for spans in some for span in spans if span[0] < span[1]):
        if out and low <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return out


def common(these: Spans, those: Spans) -> Spans:
    """What is in both."""
    out: Spans = []
    i = j = 0
    while i < len(these) and j < len(those):
        low, high = max(these[i][0], those[j][0]), min(these[i][1], those[j][1])
        if low < high:
            out.append((low, high))
        if these[i][1] < those[j][1]:
            i += 1
        else:
            j += 1
    return out


def without(these: Spans, those: Spans) -> Spans:
    """What is in the first and not in the second."""
    if not these:
        return []
    edges = [these[0][0], *(edge for span in those for edge in span), these[-1][1]]
    # Between the spans of the second lies all that is not in it.
    return common(these, [(low, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if low < high])
