"""All routes. Each noun keeps its own `urlpatterns` beside its views; accounts are allauth's views, a few by name."""

from __future__ import annotations

from allauth.account import views as account
from django.urls import include, path

from webapp.api import urlpatterns as api_patterns
from webapp.policy import policy
from webapp.views import (
    adapters,
    chat,
    collections,
    datasets,
    engines,
    evaluations,
    health,
    home,
    models,
    prompts,
    runs,
    studies,
    teams,
)

handler400 = "webapp.views.errors.bad_request"
handler403 = "webapp.views.errors.forbidden"
handler404 = "webapp.views.errors.not_found"
handler500 = "webapp.views.errors.server_error"

NOUNS = {
    "adapters": adapters, "chat": chat, "collections": collections, "datasets": datasets,
    "engines": engines, "evaluations": evaluations, "models": models, "prompts": prompts, "runs": runs,
    "studies": studies,
}  # fmt: skip

urlpatterns = [
    path("", home.index, name="home"),
    path("running", home.running, name="running"),
    path("bed", home.bed, name="bed"),
    path("load", home.load, name="load"),
    path("search", home.search, name="search"),
    path("home/steps/hide", home.hide_steps, name="hide_steps"),
    path("healthz", health.healthz, name="healthz"),
    path("metrics", health.metrics, name="metrics"),
    path("accounts/login/", policy("public")(account.login), name="account_login"),
    path("accounts/logout/", policy("public")(account.logout), name="account_logout"),
    path("accounts/signup/", policy("public")(account.signup), name="account_signup"),
    path("accounts/inactive/", policy("public")(account.account_inactive), name="account_inactive"),
    path("accounts/password/", policy("signed_in")(account.password_change), name="account_change_password"),
    path("accounts/password/set/", policy("signed_in")(account.password_set), name="account_set_password"),
    path("accounts/password/reset/", policy("public")(account.password_reset), name="account_reset_password"),
    path(
        "accounts/password/reset/done/", policy("public")(account.password_reset_done),
        name="account_reset_password_done",
    ),
    path(
        "accounts/password/reset/<uidb36>-<key>/", policy("public")(account.password_reset_from_key),
        name="account_reset_password_from_key",
    ),
    path(
        "accounts/password/reset/key/done/", policy("public")(account.password_reset_from_key_done),
        name="account_reset_password_from_key_done",
    ),
    *(path(f"{noun}/", include((module.urlpatterns, noun))) for noun, module in NOUNS.items()),
    path("team/", include((teams.urlpatterns, "teams"))),
    path("v1/", include((api_patterns, "v1"))),
]  # fmt: skip
