"""ASGI entry point, served by uvicorn."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
django_application = get_asgi_application()

from django.conf import settings  # noqa: E402 - ready only now

from webapp.body_limit import BodyLimit  # noqa: E402
from webapp.crowd_limit import CrowdLimit  # noqa: E402

application = CrowdLimit(
    BodyLimit(django_application, limit_bytes=settings.MAX_UPLOAD_BYTES), limit=settings.WEB_REQUESTS
)
