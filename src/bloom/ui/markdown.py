"""Answers of models as HTML. They are hostile input: no HTML of theirs, no image, no link that does anything but lead away."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup, escape

_SCHEMES = frozenset({"http", "https", "mailto"})
_LEADS_AWAY = {"rel": "noopener noreferrer nofollow", "target": "_blank"}
_LOWEST_HEADING = 6
_HEADINGS_BELOW = 2
"""The page's own headings come first."""


LONGEST_CHARS = 32 * 1024
_CROWDED = 4000
"""With so many characters that may mean something, it takes too long to find out what."""


@lru_cache(maxsize=64)
def render_markdown(text: str) -> Markup | None:
    """`text` as HTML of a few known elements, images as links to them. None for what is longer than LONGEST_CHARS, or made to
    take long.
    """
    if len(text) > LONGEST_CHARS or sum(map(text.count, "[]*_`<~!&\\")) > _CROWDED:
        return None
    return Markup(_PARSER.render(text))  # noqa: S704 - the renderer escapes all text, and makes no other attributes than these


def _is_safe(address: str) -> bool:
    try:
        return urlsplit(address).scheme.lower() in _SCHEMES
    except ValueError:
        return False


def _image(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
    """No image is loaded from anywhere: its words, as a link where it may be one."""
    token = tokens[index]
    words = renderer.renderInlineAsText(token.children or [], options, env) or "image"
    address = str(token.attrs.get("src", ""))
    if not _is_safe(address):
        return str(escape(words))
    return f'<a href="{escape(address)}" rel="{_LEADS_AWAY["rel"]}" target="_blank">{escape(words)}</a>'


def _link_open(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
    tokens[index].attrs = {"href": str(tokens[index].attrs.get("href", "")), **_LEADS_AWAY}
    return renderer.renderToken(tokens, index, options, env)


def _heading(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
    level = min(int(tokens[index].tag[1:]) + _HEADINGS_BELOW, _LOWEST_HEADING)
    return f"<{'/' if tokens[index].nesting < 0 else ''}h{level}>"


def _cell(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType) -> str:
    """Without the alignment, which the renderer would write as a style of its own."""
    tokens[index].attrs = {}
    return renderer.renderToken(tokens, index, options, env)


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).enable(["table", "strikethrough"])
    validate: Any = _is_safe
    parser.validateLink = validate
    rules: dict[str, Any] = {
        "image": _image,
        "link_open": _link_open,
        "heading_open": _heading,
        "heading_close": _heading,
        "th_open": _cell,
        "td_open": _cell,
    }
    for name, rule in rules.items():
        parser.add_render_rule(name, rule)
    return parser


_PARSER = _parser()
