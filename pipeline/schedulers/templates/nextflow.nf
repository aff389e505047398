// ocuseg {{ command }} with Nextflow: {{ shards }} tasks, then one that merges. Run: nextflow run {{ file | sh }} -resume
nextflow.enable.dsl = 2

process {{ command | upper }} {
    tag "part ${part}"
    cpus {{ cores }}
    memory '{{ memory }}B'
    time '{{ minutes }}m'
    errorStrategy { task.exitStatus == {{ usage }} ? 'terminate' : 'retry' }  // {{ usage }}: wrong usage; else it does what is missing
    maxRetries {{ retries }}

    input:
    tuple val(part), env('PART')

    output:
    val part

    script:
    '''
    export OCUSEG_SITE_KEY={{ site_key | sh | groovy }}
    code=0; {{ program | sh | groovy }} {{ literal | groovy }} --shard "$PART/{{ shards }}" || code=$?
    case $code in {{ rejected }}|{{ unusable }}) ;; *) exit $code ;; esac
    '''
}

process MERGE {
    input:
    val parts

    script:
    '''
    export OCUSEG_SITE_KEY={{ site_key | sh | groovy }}
    {{ program | sh | groovy }} merge {{ results | sh | groovy }}
    '''
}

workflow {
    parts = Channel.of({{ first }}..{{ last }}).map { number -> [number, number] }
    MERGE({{ command | upper }}(parts).collect())
}
