// Opens what `kilnc bundle export --layout hub` writes with Transformers.js, and holds its answers against kilnc's.
//
//     mkdir place && cp hub_layout.mjs place && cd place && npm install @huggingface/transformers@4.3.1
//     node hub_layout.mjs KILNC BUNDLE TEXT...
//
// KILNC is the binary. Models in 32 and in 8 bits answer the texts, by the tokenizer and the labels of the export alone.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { env, pipeline } from '@huggingface/transformers'

const DTYPES = { fp32: 'fp32', int8: 'q8', fp16: 'fp16', int4: 'q4' }
const [kilnc, bundle, ...texts] = process.argv.slice(2)
const run = (...args) => JSON.parse(execFileSync(kilnc, [...args, '--json', '--quiet']))

env.allowRemoteModels = false
const place = mkdtempSync(path.join(tmpdir(), 'kilnc-'))
try {
  env.localModelPath = place
  run('bundle', 'export', bundle, '--layout', 'hub', '-o', path.join(place, 'export'))
  for (const engine of run('inspect', bundle).engines) {
    const dtype = DTYPES[engine.precision]
    if (engine.target !== 'ort-cpu' || !dtype) continue
    const ask = await pipeline('text-classification', 'export', { dtype })
    const ours = run('run', bundle, '--engine', engine.name, ...texts.flatMap((text) => ['--text', text]))
    for (const [i, text] of texts.entries()) {
      const [theirs] = await ask(text)
      const same = theirs.label === ours[i].label && Math.abs(theirs.score - ours[i].score) < 1e-3
      if (!same) throw new Error(`${dtype}: ${text}: ${JSON.stringify([theirs, ours[i]])}`)
    }
    console.log(`${dtype}: ${texts.length} texts answered as by ${engine.name}`)
  }
} finally {
  rmSync(place, { recursive: true })
}
