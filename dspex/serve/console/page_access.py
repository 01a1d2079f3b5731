"""Who opens a page, and what a form of a page sends."""

from __future__ import annotations

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from dspex.serve.access.principal import Principal
from dspex.serve.access.sign_in import FORM_FIELD, check_form, of_session
from dspex.serve.api.problem_details import HttpRefusal
from dspex.serve.api.request_bodies import within
from dspex.serve.gateway import Gateway, gateway_of

__all__ = ["COUNTS", "PRINCIPAL", "act", "go_to", "open_page", "read_form", "text_of"]

#: Who opens a page, in the scope of its request.
PRINCIPAL = "dspex_principal"
#: What the navigation counts, by the path of the page, in the scope of the request.
COUNTS = "dspex_counts"
#: Open approvals are counted up to so many.
MOST_COUNTED = 100
#: The most fields of a form; a program has fewer inputs.
MOST_FIELDS = 500
#: What a form may have beside the inputs: names of fields, boundaries.
FORM_SLACK = 256 * 1024


async def open_page(request: Request, scope: str = "read") -> tuple[Gateway, Principal]:
    """The gateway, and who opens the page. Raises HttpRefusal for who is not signed in, or may not."""
    gateway = gateway_of(request)
    gateway.access.check_site(request)
    principal = await of_session(gateway.access, request) or gateway.access.without_key(request)
    if principal is None:
        raise HttpRefusal(401, "not_authenticated", "sign in with a key")
    request.scope[PRINCIPAL] = principal  # for the page of an error
    principal.require(scope)
    request.scope[COUNTS] = {"/approvals": await gateway.count_approvals(principal, most=MOST_COUNTED)}
    return gateway, principal


async def act(request: Request, scope: str, *, most: int | None = None) -> tuple[Gateway, Principal, FormData]:
    """:func:`open_page` for the form of an action, with its fields. Raises HttpRefusal for another site's form.

    ``most`` is the largest size of the form; by default what inputs may have.
    """
    gateway, principal = await open_page(request, scope)
    size = 3 * gateway.settings.max_input_bytes if most is None else most  # a byte may be sent as %XX
    return gateway, principal, await read_form(request, size + FORM_SLACK)


async def read_form(request: Request, most: int) -> FormData:
    """The fields of a form that the console gave to this browser. Raises HttpRefusal for any other."""
    declared = request.headers.get("content-length", "")
    if not (declared.isascii() and declared.isdigit()):
        raise HttpRefusal(400, "length_required", "the form has no Content-Length")
    if int(declared) > most:
        raise HttpRefusal(
            413, "body_too_large", f"the form is larger than {most} bytes", headers={"Connection": "close"}
        )
    prompt = within(request, gateway_of(request).settings.serve_read_seconds)
    try:
        form = await prompt.form(max_files=1, max_fields=MOST_FIELDS, max_part_size=most)
    except UnicodeError:  # the charset that it names is none for these bytes
        raise HttpRefusal(400, "malformed_form", "the form is not text in the charset that it names") from None
    check_form(request, form.get(FORM_FIELD))
    return form


def go_to(request: Request, path: str) -> Response:
    """Have the browser load a page of the console, after an action."""
    return RedirectResponse(request.scope.get("root_path", "") + path, 303)


def text_of(form: FormData, name: str) -> str:
    """A text field of a form; empty without one."""
    value = form.get(name)
    return value if isinstance(value, str) else ""
