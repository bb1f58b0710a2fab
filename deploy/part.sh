#!/usr/bin/env bash
# Runs one part of Coldframe in the foreground, for systemd, containers, or a machine of its own. All configuration comes
# from the environment (deploy/coldframe.env.example). Usage: deploy/part.sh prepare|web|engine|engine-BASE|worker-gpu|worker-cpu|worker-eval|reconciler|models
set -euo pipefail
cd "$(dirname "$0")/.."
python=${COLDFRAME_PYTHON:-.venv/bin/python}
export DJANGO_SETTINGS_MODULE=webapp.settings PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
# Threads are divided where the work is: light parts need one, the engine and the trainers set their own.
light() { export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1; }

case "${1:-}" in
  prepare) light; exec "$python" manage.py prepare ;;
  web)
    light
    exec "$python" -m uvicorn webapp.asgi:application --host "${HOST:-127.0.0.1}" --port "${PORT:-8000}" \
      --workers "${WEB_WORKERS:-1}" --proxy-headers --forwarded-allow-ips "${TRUSTED_PROXIES:-127.0.0.1}" \
      --no-server-header --no-access-log --lifespan off --timeout-graceful-shutdown 10 ;;
  engine) exec "$python" manage.py engine ;;
  engine-*) exec "$python" manage.py engine --base "${1#engine-}" ;;  # another one of BASE_MODELS
  worker-gpu) exec "$python" -m celery -A jobs.celery worker -Q gpu -c 1 -n gpu@%h --loglevel INFO ;;
  worker-cpu) light; exec "$python" -m celery -A jobs.celery worker -Q cpu -c "${CPU_WORKERS:-1}" -n cpu@%h --loglevel INFO ;;
  worker-eval) light; exec "$python" -m celery -A jobs.celery worker -Q eval -c "${EVAL_WORKERS:-1}" -n eval@%h --loglevel INFO ;;
  reconciler) light; exec "$python" manage.py reconcile ;;
  models) exec "$python" -m jobs.starter --into "${COLDFRAME_VAR:-var}/models" ;;
  *) sed -n '3p' "$0" >&2; exit 64 ;;
esac
