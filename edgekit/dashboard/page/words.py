"""Numbers as the page prints them."""


def say_ms(value_ms: float) -> str:
    """Milliseconds with three digits that matter: "4.27", "61.3", "1240"."""
    if value_ms < 10:
        return f"{value_ms:.2f}"
    if value_ms < 100:
        return f"{value_ms:.1f}"
    return f"{min(value_ms, 1e9):.0f}"


def say_count(count: int) -> str:
    """A count with thin groups: "12 345"."""
    return f"{min(count, 10**15):,}".replace(",", "\u202f")
