#!/bin/bash
# ocuseg {{ command }} on Slurm: {{ shards }} array tasks, then one that merges. Run on a login node: bash {{ file | sh }}
set -euo pipefail
export OCUSEG={{ program | sh }}  # how a node calls ocuseg
export SCANS={{ scans | sh }} RESULTS={{ results | sh }}{% if model %} MODEL={{ model | sh }}{% endif %}

export OCUSEG_SITE_KEY={{ site_key | sh }}  # one key for all tasks, so that a patient has one pseudonym

tasks=$(sbatch --parsable --job-name=ocuseg-{{ command }} --export=ALL --array=0-{{ shards - 1 }} --requeue --open-mode=append \
  --time={{ minutes }} --cpus-per-task={{ cores }} --mem={{ memory }} --output=ocuseg-%A_%a.log <<'TASK'
#!/bin/bash
# A task whose node fails is queued again by Slurm, one that stops before its wall time by itself; it then does what is missing.
code=0; srun "$OCUSEG" {{ call }} --shard auto --stop-after {{ stop }} || code=$?
case $code in
  0|{{ rejected }}|{{ unusable }}) exit 0 ;;  # {{ rejected }}, {{ unusable }}: some or all files of this part were rejected, which the merge tells
  {{ stopped }}) exec scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" ;;
  *) exit "$code" ;;
esac
TASK
)
sbatch --job-name=ocuseg-merge --export=ALL --dependency=afterany:"${tasks%%;*}" --requeue --mem={{ memory }} --output=ocuseg-merge-%j.log \
  --wrap='"$OCUSEG" merge "$RESULTS"'
