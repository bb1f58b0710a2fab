"""Members, roles, API tokens and the audit trail of the current team."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from ml.errors import ColdframeError, NotFoundError
from webapp.listing import listing
from webapp.models import ApiToken, AuditEvent, Membership, Role
from webapp.policy import policy
from webapp.services import teams as services


def _page(request: HttpRequest, **extra: object) -> HttpResponse:
    team = request.team
    trail = AuditEvent.objects.for_team(team).select_related("created_by")
    context = {
        "members": Membership.objects.filter(team=team).select_related("user").order_by("user__username"),
        "tokens": ApiToken.objects.for_team(team).filter(revoked_at__isnull=True).select_related("created_by"),
        "listing": listing(request, trail, search=("action", "subject", "created_by__username"), page_size=15),
        "roles": Role.choices,
        "is_admin": request.principal.may("admin"),
        **extra,
    }
    return render(request, "teams/index.html", context, status=422 if extra.get("error") else 200)


@policy("viewer")
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    return _page(request)


@policy("signed_in")
@require_POST
def switch(request: HttpRequest) -> HttpResponse:
    membership = Membership.objects.filter(
        user=request.user, team__slug=request.POST.get("team", ""), is_suspended=False
    ).first()
    if membership is None:
        raise NotFoundError("You are in no team of that name.")
    request.session["team"] = membership.team_id
    return redirect("home")


@policy("admin")
@require_POST
def member_add(request: HttpRequest) -> HttpResponse:
    username, role = request.POST.get("username", ""), request.POST.get("role", Role.MEMBER)
    try:
        membership, password = services.member_add(team=request.team, user=request.user, username=username, role=role)
    except ColdframeError as error:
        return _page(request, error=error, typed_username=username, typed_role=role)
    if password:
        return _page(request, new_member=membership.user, new_password=password)
    messages.success(request, f"{username} is in the team now.")
    return redirect("teams:index")


@policy("admin")
@require_POST
def member_change(request: HttpRequest, pk: int) -> HttpResponse:
    suspended = {"1": True, "0": False}.get(request.POST.get("suspended", ""))
    try:
        membership = services.member_change(
            team=request.team, user=request.user, pk=pk, role=request.POST.get("role", ""), is_suspended=suspended
        )
    except NotFoundError:
        raise
    except ColdframeError as error:
        return _page(request, error=error)
    messages.success(
        request, f"{membership.user} is {'suspended' if membership.is_suspended else membership.role} now."
    )
    return redirect("teams:index")


@policy("member")
@require_POST
def token_create(request: HttpRequest) -> HttpResponse:
    try:
        token, text = services.token_create(
            team=request.team, user=request.user, name=request.POST.get("name", ""), role=request.principal.role
        )
    except ColdframeError as error:
        return _page(request, error=error)
    return _page(request, new_token=token, new_token_text=text)


@policy("member")
@require_POST
def token_revoke(request: HttpRequest, pk: int) -> HttpResponse:
    mine = ApiToken.objects.for_team(request.team).filter(pk=pk)
    if not request.principal.may("admin"):
        mine = mine.filter(created_by=request.user)
    if not mine.exists():
        raise NotFoundError("No such token of yours in this team.")
    services.token_revoke(team=request.team, user=request.user, pk=pk)
    messages.success(request, "The token is revoked.")
    return redirect("teams:index")


urlpatterns = [
    path("", index, name="index"),
    path("switch/", switch, name="switch"),
    path("members/add/", member_add, name="member_add"),
    path("members/<int:pk>/", member_change, name="member_change"),
    path("tokens/new/", token_create, name="token_create"),
    path("tokens/<int:pk>/revoke/", token_revoke, name="token_revoke"),
]
