// Opens what `kilnc bundle export --layout hub` writes with Transformers.js, and holds its answers against kilnc's.
//
//     mkdir place && cp hub_layout.mjs place && cd place && npm install @huggingface/transformers@4.3.1
//     node hub_layout.mjs KILNC BUNDLE TEXT...
//
// KILNC is the binary. Models in 32 and in fewer bits answer the texts by the pipeline of the bundle's task, by the tokenizer
// and the labels of the export alone. Of a bundle for question answering the first text is the question to the others.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { env, pipeline } from '@huggingface/transformers'

const DTYPES = { fp32: 'fp32', int8: 'q8', fp16: 'fp16', int4: 'q4' }

const close = (a, b) => Math.abs(a - b) < 1e-3
const allClose = (a, b) => a.length === b.length && a.every((x, i) => close(x, b[i]))

/** Of each task: the pipeline, and whether an answer is that of kilnc. */
const TASKS = {
  'text-classification': async (ask, text, ours) => {
    const [theirs] = await ask(text)
    return theirs.label === ours.label && close(theirs.score, ours.score)
  },
  'token-classification': async (ask, text, ours) => {
    // Transformers.js tells every token by itself.
    const theirs = await ask(text)
    const same = (token, i) => token.entity === ours.entities[i].entity && close(token.score, ours.entities[i].score)
    return theirs.length === ours.entities.length && theirs.every(same)
  },
  'question-answering': async (ask, text, ours) => {
    const theirs = await ask(ours.question, text)
    // It tells the tokens of a span, not its place in the text.
    const plain = (answer) => answer.toLowerCase().replace(/\s+/g, '')
    return plain(theirs.answer) === plain(ours.answers[0].answer)
  },
  'fill-mask': async (ask, text, ours) => {
    const theirs = await ask(text, { top_k: 5 })
    return theirs.every(({ token, score }, i) => {
      const guess = ours.masks[0][i]
      return token === guess.token && close(score, guess.score)
    })
  },
  'feature-extraction': async (ask, text, ours) => allClose((await ask(text)).tolist()[0].flat(), ours.features.flat()),
  'sentence-similarity': async (ask, text, ours) => {
    const { sentence_embedding: theirs } = await ask.model(ask.tokenizer(text))
    return allClose(theirs.tolist()[0], ours.embedding)
  },
}

const [kilnc, bundle, ...given] = process.argv.slice(2)
const run = (...args) => JSON.parse(execFileSync(kilnc, [...args, '--json', '--quiet'], { maxBuffer: 1 << 28 }))

env.allowRemoteModels = false
const place = mkdtempSync(path.join(tmpdir(), 'kilnc-'))
try {
  env.localModelPath = place
  run('bundle', 'export', bundle, '--layout', 'hub', '-o', path.join(place, 'export'))
  const { task, engines } = run('inspect', bundle)
  const asked = task === 'question-answering' ? ['--question', given[0]] : []
  const texts = asked.length ? given.slice(1) : given
  if (task === 'token-classification') asked.push('--aggregation', 'none')
  for (const engine of engines) {
    const dtype = DTYPES[engine.precision]
    if (engine.target !== 'ort-cpu' || !dtype) continue
    const ask = await pipeline(task === 'sentence-similarity' ? 'feature-extraction' : task, 'export', { dtype })
    const ours = run('run', bundle, '--engine', engine.name, ...asked, ...texts.flatMap((text) => ['--text', text]))
    for (const [i, text] of texts.entries()) {
      if (!(await TASKS[task](ask, text, ours[i]))) throw new Error(`${dtype}: ${text}: ${JSON.stringify(ours[i])}`)
    }
    console.log(`${dtype}: ${texts.length} texts answered as by ${engine.name} (${task})`)
  }
} finally {
  rmSync(place, { recursive: true })
}
