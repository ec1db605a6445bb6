"""What is measured several times over, in turns: numbers with their spread, and the kind of machine that they hold for."""

from typing import Any

import numpy as np

__all__ = ["kind", "spread", "spread_text"]


def spread(numbers: np.ndarray) -> dict[str, float]:
    """
    :param numbers: one for each turn
    :return: their median, the lowest and the highest, to four significant digits
    """
    ends = {"median": np.median(numbers), "low": numbers.min(), "high": numbers.max()}
    return {name: float(f"{number:.4g}") for name, number in ends.items()}


def spread_text(numbers: dict[str, float] | None, digits: int) -> str:
    """
    :param numbers: from :func:`spread`; None where nothing was measured
    :param digits: after the decimal point
    :return: the median with the lowest and the highest turn
    """
    if numbers is None:
        return "–"
    return f"{numbers['median']:.{digits}f} [{numbers['low']:.{digits}f}, {numbers['high']:.{digits}f}]"


def kind(measured: dict[str, Any]) -> str:
    """
    :param measured: with ``machine``, of :mod:`benchmarks.provenance`
    :return: the kind of machine, as the name of its files
    """
    machine = measured["machine"]
    return f"{machine['system']}-{machine['architecture']}-{machine['cpus']}cpus".lower()
