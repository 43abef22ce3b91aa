"""Which prompts of a batch are prefilled together: short ones need not be padded to the longest. Pure."""


def group_by_width(widths: dict[int, int], group_cost: int) -> list[list[int]]:
    """Groups, widest first, for which rows x width plus `group_cost` for each group is least in sum.

    Rows are sorted by width, so a group is a stretch of them; the cheapest way to cut the first n is found for every n.
    """
    order = sorted(widths, key=lambda at: -widths[at])
    # Only between different widths is a cut worth a thought: that keeps this small for any number of rows.
    edges = [0, *(n for n in range(1, len(order)) if widths[order[n]] != widths[order[n - 1]]), len(order)]
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(edges)):
        costs = (
            (best[start][0] + group_cost + (edges[end] - edges[start]) * widths[order[edges[start]]], start)
            for start in range(end)
        )
        best.append(min(costs))
    groups, end = [], len(edges) - 1
    while end:
        start = best[end][1]
        groups.append(order[edges[start] : edges[end]])
        end = start
    return groups[::-1]
