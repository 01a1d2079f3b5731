"""The pages of optimisations, and of a program's versions with what can be done with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dspex.client.improvement.optimization import TriedVersion
from dspex.client.improvement.optimization_page import cost_plot, curve_plot, pareto_front
from dspex.errors import FieldError, ValidationError
from dspex.program.improvement.rollout_guard import Guard
from dspex.serve.access.principal import Principal
from dspex.serve.api.request_bodies import plain_text, read_id, read_query
from dspex.serve.console.page_access import act, go_to, open_page, text_of
from dspex.serve.console.page_rendering import page
from dspex.serve.improvement import program_history
from dspex.serve.improvement.program_history import (
    compared_versions,
    guard_of,
    parent_of,
    recent_figures,
    versions_of,
)
from dspex.serve.improvement.seen_optimizations import seen_optimization, seen_optimizations, tried_versions
from dspex.store.improvement.program_versions import Version

__all__ = ["ROUTES"]

#: The rows of a page; the candidates, points and differences that a page shows.
PAGE, MOST_CANDIDATES, MOST_DIFFERENCES = 50, 200, 60
CHANGES = 30


async def optimizations_page(request: Request) -> Response:
    """Optimisations, the newest first."""
    gateway, principal = await open_page(request)
    asked = read_query(request.query_params, {"program": plain_text, "cursor": read_id})
    found, after = await seen_optimizations(
        gateway, principal, program=asked.get("program"), before=asked.get("cursor"), limit=PAGE
    )
    query = {"program": asked["program"]} if "program" in asked else {}
    return page(
        request, "optimizations.html", principal, title="Optimisations", jobs=found,
        is_live="cursor" not in asked and not all(each.execution.status.is_final for each in found),
        first_page=request.scope["path"] if "cursor" in asked else None,
        next_page=after and f"{request.scope['path']}?{urlencode({**query, 'cursor': after})}",
    )  # fmt: skip


async def optimization_page(request: Request) -> Response:
    """One optimisation: its curve, its candidates, and the promotion of the best."""
    gateway, principal = await open_page(request)
    job = await seen_optimization(gateway, principal, request.path_params["id"])
    tried = await tried_versions(gateway, job)
    candidates = _best_first(tried.candidates) if job.execution.status.is_final else tried.candidates
    scored = [each for each in tried.candidates if each.score is not None]
    front = {each.version for each in pareto_front(scored[:MOST_CANDIDATES])}
    return page(
        request, "optimization.html", principal, title=f"Optimisation of {job.program}", job=job, tried=tried,
        candidates=candidates[:MOST_CANDIDATES], hidden=len(candidates) > MOST_CANDIDATES, front=front,
        current=(await gateway.client.program(job.program)).version, may_steer=_may_steer(principal),
        curve=Markup(curve_plot(scored[:MOST_CANDIDATES])) if scored else "",  # noqa: S704
        costs=Markup(cost_plot(scored[:MOST_CANDIDATES], front)) if scored else "",  # noqa: S704
    )  # fmt: skip


async def versions_page(request: Request) -> Response:
    """The versions of a program, the rollout under way, and what was done."""
    gateway, principal = await open_page(request)
    asked, name = read_query(request.query_params, {"cursor": plain_text}), request.path_params["name"]
    found, after = await versions_of(gateway, principal, name, after=asked.get("cursor"), limit=PAGE)
    current = (await gateway.client.program(name)).version
    past = await gateway.client.rollouts(name)
    under_way = next((each for each in past if each.ended_at is None), None)
    figures = None if under_way is None else await recent_figures(gateway, under_way, current)
    changes = [] if principal.tenant is not None else await gateway.client.program_changes(name, limit=CHANGES)
    return page(
        request, "versions.html", principal, title=f"Versions of {name}", name=name, versions=found, current=current,
        challenger=next((each.version for each in found if not each.current), ""), may_steer=_may_steer(principal),
        parents={each.version: _base(each, current) for each in found}, changes=changes, guard_text=guard_text,
        under_way=under_way, figures=None if principal.tenant is not None else figures,
        first_page=request.scope["path"] if "cursor" in asked else None,
        next_page=after and f"{request.scope['path']}?{urlencode({'cursor': after})}",
    )  # fmt: skip


async def diff_page(request: Request) -> Response:
    """Two versions of a program side by side."""
    gateway, principal = await open_page(request)
    asked, name = read_query(request.query_params, {"before": plain_text, "after": plain_text}), _name(request)
    principal.require_program(name)  # before a 404, which would name another program
    current = (await gateway.client.program(name)).version
    before, after = asked.get("before", current), asked.get("after", current)
    found = await compared_versions(gateway, principal, name, before, after)
    return page(
        request, "version_diff.html", principal, title=f"Versions of {name}", name=name, found=found, current=current,
        shown=found.differences[:MOST_DIFFERENCES], hidden=max(len(found.differences) - MOST_DIFFERENCES, 0),
        may_steer=_may_steer(principal),
    )  # fmt: skip


async def promote(request: Request) -> Response:
    """Make a version the current one."""
    gateway, principal, form = await act(request, "operate")
    await program_history.promote(gateway, principal, _name(request), text_of(form, "version").strip())
    return go_to(request, f"/programs/{_name(request)}/versions")


async def set_alias(request: Request) -> Response:
    """Let an alias stand for a version."""
    gateway, principal, form = await act(request, "operate")
    alias, version = text_of(form, "alias").strip(), text_of(form, "version").strip()
    await program_history.set_alias(gateway, principal, _name(request), alias, version)
    return go_to(request, f"/programs/{_name(request)}/versions")


async def begin_rollout(request: Request) -> Response:
    """Send a share of the new submits to a version."""
    gateway, principal, form = await act(request, "operate")
    names = ("percent", "max_error_rate", "min_score", "max_cost_ratio", "min_executions")
    numbers = _numbers(form, names)
    version, percent = text_of(form, "version").strip(), numbers.pop("percent", None)
    await program_history.begin_rollout(
        gateway, principal, _name(request), version, percent=10.0 if percent is None else percent,
        guard=guard_of(numbers),
    )  # fmt: skip
    return go_to(request, f"/programs/{_name(request)}/versions")


async def end_rollout(request: Request) -> Response:
    """End the rollout of a program."""
    gateway, principal, _ = await act(request, "operate")
    await program_history.end_rollout(gateway, principal, _name(request))
    return go_to(request, f"/programs/{_name(request)}/versions")


ROUTES = (
    Route("/optimizations", optimizations_page, methods=["GET"]),
    Route("/optimizations/{id}", optimization_page, methods=["GET"]),
    Route("/programs/{name}/versions", versions_page, methods=["GET"]),
    Route("/programs/{name}/diff", diff_page, methods=["GET"]),
    Route("/programs/{name}/promote", promote, methods=["POST"]),
    Route("/programs/{name}/alias", set_alias, methods=["POST"]),
    Route("/programs/{name}/rollout", begin_rollout, methods=["POST"]),
    Route("/programs/{name}/rollout/end", end_rollout, methods=["POST"]),
)


def guard_text(guard: Guard) -> str:
    """What ends a rollout by itself, in words."""
    limits = [
        f"more than {guard.max_error_rate:.1%} of its executions fail" if guard.max_error_rate is not None else "",
        f"the mean score of feedback is below {guard.min_score:g}" if guard.min_score is not None else "",
        f"an execution costs more than {guard.max_cost_ratio:g} times the current version's"
        if guard.max_cost_ratio is not None else "",
    ]  # fmt: skip
    found = [each for each in limits if each]
    if not found:
        return "It has no guard: it goes on until somebody ends it."
    return f"It ends by itself when {', or '.join(found)}, judged by {guard.min_executions} executions."


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    return name


def _may_steer(principal: Principal) -> bool:
    return principal.may("operate") and principal.tenant is None


def _best_first(tried: Sequence[TriedVersion]) -> Sequence[TriedVersion]:
    return sorted(tried, key=lambda each: (each.score is None, -(each.score or 0.0)))


def _base(version: Version, current: str) -> str:
    """The version that the differences of this one are shown to: what it was made from, or else the current one."""
    return parent_of(version) or current


def _numbers(form: FormData, names: Sequence[str]) -> dict[str, Any]:
    """The numbers of a form; an empty field has none. Raises ValidationError with all faults."""
    found: dict[str, Any] = {}
    faults = []
    for name in names:
        text = text_of(form, name).strip()
        try:
            if text:
                found[name] = int(text) if text.isascii() and text.isdigit() else float(text)
        except ValueError:
            faults.append(FieldError(name, "a number", repr(text)[:80]))
    if faults:
        raise ValidationError.of("the form", faults)
    return found
