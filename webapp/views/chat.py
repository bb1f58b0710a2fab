"""Pages of chat."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path

from webapp.policy import policy


@policy("viewer")
def index(request: HttpRequest) -> HttpResponse:
    return render(request, "chat/index.html")


@policy("viewer")
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    return render(request, "chat/index.html")


urlpatterns = [path("", index, name="index"), path("<int:pk>/", detail, name="detail")]
