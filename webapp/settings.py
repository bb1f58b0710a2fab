"""Django settings, all of whose variables come from `webapp.config.Config`. No work beyond reading configuration."""

from __future__ import annotations

import dj_database_url

from webapp.config import BASE_DIR, Config, bases_of, embedded_urls, metrics_token_of, secret_key_of

config = Config()
VAR_DIR = config.coldframe_var.resolve()
MODELS_DIR = VAR_DIR / "models"
STORAGE_DIR = VAR_DIR / "storage"
RUNS_DIR = VAR_DIR / "runs"
for folder in (VAR_DIR, MODELS_DIR, STORAGE_DIR, RUNS_DIR, VAR_DIR / "static"):
    folder.mkdir(parents=True, exist_ok=True)

SECRET_KEY = secret_key_of(config)
DEBUG = config.debug
ALLOWED_HOSTS = [host.strip() for host in config.allowed_hosts.split(",") if host.strip()]
PORT, HOST, WEB_REQUESTS = config.port, config.host, config.web_requests
IS_LOOPBACK = HOST in ("127.0.0.1", "localhost", "::1")

REDIS_URL = config.redis_url or embedded_urls(config)["redis_url"]
CHROMA_URL = config.chroma_url or embedded_urls(config)["chroma_url"]
STORAGE_URL = config.storage_url
BASE_MODELS = bases_of(config.base_models)
BASE_MODEL = BASE_MODELS[0]
EMBEDDING_MODEL = config.embedding_model
ENGINE_SLOTS, ENGINE_LENGTH, ENGINE_THREADS = config.engine_slots, config.engine_length, config.engine_threads
ENGINE_OWN_BYTES = config.engine_own_mb * 1024 * 1024
ENGINE_PACKED, ENGINE_TRACED = config.engine_packed, config.engine_traced
ENGINE_DEVICE, ENGINE_QUANTIZATION = config.engine_device, config.engine_quantization
ENGINE_VLLM_URL, ENGINE_VLLM_KEY = config.engine_vllm_url, config.engine_vllm_key.strip()
ENGINE_VLLM_LORAS, ENGINE_VLLM_PUBLIC = config.engine_vllm_loras, config.engine_vllm_public
ENGINE_DRAIN_S = config.engine_drain_s
RUN_LEASE_S, RUN_NICE, RUN_MEMORY_BYTES = config.run_lease_s, config.run_nice, config.run_memory_mb * 1024 * 1024
METRICS_TOKEN, HF_TOKEN = metrics_token_of(config), config.hf_token
MAX_UPLOAD_BYTES = config.max_upload_mb * 1024 * 1024
DEMO, DEMO_TRAINS = config.demo, config.demo_trains

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "django_htmx",
    "ninja",
    "webapp.apps.WebappConfig",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "webapp.middleware.ContentSecurityPolicyMiddleware",
    "webapp.middleware.ApiShapeMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "webapp.middleware.DefaultClosedMiddleware",
    "webapp.middleware.FriendlyErrorsMiddleware",
]
ROOT_URLCONF = "webapp.urls"
ASGI_APPLICATION = "webapp.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "webapp.context.shell",
            ],
        },
    },
]

if config.database_url:
    DATABASES = {"default": dj_database_url.parse(config.database_url, conn_max_age=60, conn_health_checks=True)}
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": VAR_DIR / "db.sqlite3",
            "OPTIONS": {
                "timeout": 30,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=30000;",
            },
        }
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_LOGOUT_REDIRECT_URL = "/accounts/login/"
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "email", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_ADAPTER = "webapp.accounts.ClosedSignupAdapter"
ACCOUNT_RATE_LIMITS = {"login_failed": "10/m/ip,5/5m/key"}
ACCOUNT_SESSION_REMEMBER = None
ACCOUNT_USER_MODEL_EMAIL_FIELD = "email"
EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"

LANGUAGE_CODE, TIME_ZONE, USE_TZ, USE_I18N = "en-gb", "UTC", True, False
STATIC_URL = "/static/"
STATIC_ROOT = VAR_DIR / "static"
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": STORAGE_DIR}},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024
FILE_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
FILE_UPLOAD_TEMP_DIR = None

SESSION_COOKIE_HTTPONLY, SESSION_COOKIE_SAMESITE = True, "Lax"
SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "coldframe_session", "coldframe_csrf"
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "webapp.views.errors.csrf_failure"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SILENCED_SYSTEM_CHECKS: list[str] = []
if config.https:
    SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_HSTS_SECONDS, SECURE_HSTS_INCLUDE_SUBDOMAINS, SECURE_HSTS_PRELOAD = 31_536_000, True, True
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
else:
    # Plain HTTP is for this machine only; `manage.py check --deploy` is run with HTTPS=1.
    SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = False

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {"httpx": {"level": "WARNING"}, "django.request": {"level": "ERROR"}},
}
