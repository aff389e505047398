# ocuseg {{ command }} with Snakemake: {{ shards }} jobs, then one that merges. Run: snakemake --snakefile {{ file | sh }} --cores all
OCUSEG = {{ program | python }}  # how a job calls ocuseg
SCANS = {{ scans | python }}
RESULTS = {{ results | python }}
{% if model %}
MODEL = {{ model | python }}
{% endif %}
PARTS = range({{ first }}, {{ last + 1 }})

import os
os.environ.setdefault("OCUSEG_SITE_KEY", {{ site_key | python }})  # the key of pseudonyms, one for all jobs
envvars: "OCUSEG_SITE_KEY"

rule merge:
    input: expand("ocuseg-{{ command }}/{part}.done", part=PARTS)
    shell: "{OCUSEG:q} merge {RESULTS:q}"

rule {{ command }}:
    output: touch("ocuseg-{{ command }}/{part}.done")
    threads: {{ cores }}
    resources: mem={{ (memory ~ "B") | python }}, runtime={{ minutes }}
    retries: {{ retries }}  # each does what is missing
    shell:  # codes {{ rejected }} and {{ unusable }}: some or all files of this part were rejected, which the merge tells
        "code=0; {OCUSEG:q} {{ braced }} --shard {wildcards.part}/{{ shards }} || code=$?; "
        "case $code in {{ rejected }}|{{ unusable }}) ;; *) exit $code ;; esac"
