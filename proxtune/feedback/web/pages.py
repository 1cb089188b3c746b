"""Pages: templates in the language of the reader, Markdown that can do no harm, and what went wrong."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from proxtune.feedback.web.language import LANGUAGES

TEMPLATES = Environment(
    loader=PackageLoader("proxtune.feedback.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
COOKIE = "session"
YEAR = 365 * 24 * 3600


def language_of(request: Request) -> str:
    """The language that a reader chose, or else that of the browser."""
    chosen = request.query_params.get("language") or request.cookies.get("language")
    if chosen in LANGUAGES:
        return chosen
    return "zh" if request.headers.get("accept-language", "").lower().startswith("zh") else "en"


def page(request: Request, name: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page from a template; `session` is in its values where somebody is logged in."""
    language = language_of(request)
    values = {"session": None, "t": LANGUAGES[language], "language": language, "path": request.url.path, **values}
    response = HTMLResponse(TEMPLATES.get_template(name).render(values), status)
    if "language" in request.query_params:
        response.set_cookie("language", language, max_age=YEAR, samesite="lax")
    return response


def wants_json(request: Request) -> bool:
    """Whether a program is asking, and not a person."""
    return request.url.path.startswith("/api/") or "application/json" in request.headers.get("accept", "")


def problem(
    request: Request,
    status: int,
    detail: str,
    *,
    more: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """What went wrong and what to do, for a program or for a person; who is not logged in gets the login page.

    A page says in the reader's language what kind of thing it is, and the detail, which is English, beneath.
    """
    if wants_json(request):
        return JSONResponse({"detail": detail, **(more or {})}, status, headers)
    words = LANGUAGES[language_of(request)]
    if status == 401:
        message = words["session_over"] if COOKIE in request.cookies else None
        response = page(request, "login.html", status=401, message=message)
    else:
        meaning = words.get(f"problem_{status}")
        response = page(request, "problem.html", status=status, meaning=meaning, detail=detail)
    response.headers.update(headers or {})
    return response


def markdown(text: str) -> Markup:
    """Markdown as HTML: what is HTML in it is shown as text, images are left out, links lead to http(s) only."""
    return Markup(_MARKDOWN.render(text))  # noqa: S704 (html is off, so that all text is escaped)


def _link(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    tokens[index].attrSet("target", "_blank")
    return renderer.renderToken(tokens, index, options, env)


def _renderer() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")

    def allowed(url: str) -> bool:
        return urlsplit(url).scheme in ("http", "https")

    parser.validateLink = allowed  # type: ignore[method-assign]
    parser.add_render_rule("link_open", _link)
    return parser


_MARKDOWN = _renderer()
