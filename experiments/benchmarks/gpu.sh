#!/usr/bin/env bash
# Measure training on the GPU of this machine, within 6 minutes and without a package registry: see gpu.py.
#     experiments/benchmarks/gpu.sh [--out FILE] [--toy]        PYTHON=... picks the interpreter
# The checkout is all that such a machine needs, with a Python that has torch, pytorch-lightning, torchmetrics, numpy.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
[[ -z ${PYTHON:-} && -x $root/.venv/bin/python ]] && "$root/.venv/bin/python" -c '' 2>/dev/null && python=$root/.venv/bin/python
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 exec "$python" -W ignore "$root/experiments/benchmarks/gpu.py" "$@"
