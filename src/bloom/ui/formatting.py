"""How pages write numbers, times and sizes. Times come in UTC; a script of the page turns them into the reader's zone."""

from datetime import UTC, datetime, timedelta

from babel.dates import format_datetime, format_timedelta
from babel.numbers import format_compact_decimal, format_decimal, format_percent
from markupsafe import Markup

from bloom.base.clock import from_ms


class Formats:
    """The formats of one language, for templates (`f`)."""

    def __init__(self, language: str) -> None:
        self.language = language

    def time(self, moment: datetime | None, *, otherwise: str = "–") -> Markup:
        """A moment, to the second."""
        return self._time(moment, "medium", otherwise)

    def ago(self, moment: datetime | None, *, otherwise: str = "–") -> Markup:
        """How long ago it was, or when it will be; the moment itself on pointing at it."""
        if moment is None:
            return Markup("{}").format(otherwise)
        words = format_timedelta(moment - datetime.now(UTC), add_direction=True, locale=self.language, threshold=0.95)
        shown = Markup('<time datetime="{}" title="{}" data-ago>{}</time>')
        return shown.format(_iso(moment), self._text(moment, "medium"), words)

    def duration(self, seconds: float | None, *, otherwise: str = "–") -> str:
        """A span of time in short words: `850 ms`, `3.2 s`, `4 min 5 s`, `2 h 3 min`."""
        if seconds is None:
            return otherwise
        units = _UNITS.get(self.language, _UNITS["en"])
        if seconds < 1:
            return f"{round(seconds * 1000)} {units[0]}"
        if seconds < 60:
            return f"{self.number(round(seconds, 1))} {units[1]}"
        whole = round(seconds)
        for size, index in ((86_400, 4), (3600, 3), (60, 2)):
            if whole >= size:
                rest = whole % size // (size // (24 if index == 4 else 60))
                return f"{whole // size} {units[index]}" + (f" {rest} {units[index - 1]}" if rest else "")
        return f"{whole} {units[1]}"

    def number(self, value: float | None, *, otherwise: str = "–") -> str:
        """A number with the language's separators."""
        return otherwise if value is None else format_decimal(value, locale=self.language)

    def compact(self, value: float) -> str:
        """A large number in a few characters: 12K."""
        return (
            format_compact_decimal(value, locale=self.language, fraction_digits=1)
            if abs(value) >= 10_000
            else self.number(value)
        )

    def percent(self, value: float) -> str:
        """0.25 as 25%."""
        return format_percent(value, locale=self.language)

    def money(self, dollars: float | None, *, otherwise: str = "–") -> str:
        """An amount of US dollars, which is what the Claude CLI tells; four digits for amounts below one."""
        if dollars is None:
            return otherwise
        return "$" + format_decimal(
            dollars, format="#,##0.00" if dollars >= 1 or not dollars else "0.00##", locale=self.language
        )

    def size(self, count: int | None, *, otherwise: str = "–") -> str:
        """Bytes in binary units."""
        if count is None:
            return otherwise
        value, unit = float(count), "B"
        for unit in ("B", "KiB", "MiB", "GiB"):
            if value < 1024 or unit == "GiB":
                break
            value /= 1024
        return f"{self.number(round(value, 1))} {unit}"

    def from_ms(self, milliseconds: int | None) -> datetime | None:
        """The moment of a time of the wire."""
        return None if milliseconds is None else from_ms(milliseconds)

    def _time(self, moment: datetime | None, form: str, otherwise: str) -> Markup:
        if moment is None:
            return Markup("{}").format(otherwise)
        return Markup('<time datetime="{}">{}</time>').format(_iso(moment), self._text(moment, form))

    def _text(self, moment: datetime, form: str) -> str:
        return f"{format_datetime(moment, form, tzinfo=UTC, locale=self.language)} UTC"


_UNITS = {"en": ("ms", "s", "min", "h", "d"), "uk": ("мс", "с", "хв", "год", "д")}


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_between(begin: datetime | None, end: datetime | None) -> float | None:
    """The seconds from `begin` to `end`, or None where one of them is not known."""
    return None if begin is None or end is None else max((end - begin) / timedelta(seconds=1), 0.0)
