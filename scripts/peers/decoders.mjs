// Lets Transformers.js generate with a decoder in the Hub's layout, and compares its tokens with PyTorch's.
//
//     node decoders.mjs FOLDER CHECKPOINT
//
// FOLDER holds onnx/model.onnx, config.json, generation_config.json and the tokenizer; CHECKPOINT is a folder of
// tests/fixtures/decoders, whose greedy.json has prompts and PyTorch's greedy tokens. Every prompt generates alone, as a
// text where it has one, and all in one batch padded left. decoders.sh makes FOLDER and installs what this imports.

import { readFileSync } from 'node:fs'
import path from 'node:path'
import { AutoModelForCausalLM, AutoTokenizer, env, pipeline, Tensor } from '@huggingface/transformers'

const [folder, checkpoint] = process.argv.slice(2)
env.allowRemoteModels = false
env.localModelPath = path.dirname(path.resolve(folder))
const name = path.basename(path.resolve(folder))

const { rows, left_padded: padded } = JSON.parse(readFileSync(path.join(checkpoint, 'greedy.json')))
const options = { max_new_tokens: 20, do_sample: false }
const same = (found, expected, what) => {
  if (JSON.stringify(found) !== JSON.stringify(expected)) throw new Error(`${what}: ${JSON.stringify(found)} for ${JSON.stringify(expected)}`)
}
const ints = (rows) => new Tensor('int64', BigInt64Array.from(rows.flat().map(BigInt)), [rows.length, rows[0].length])

const model = await AutoModelForCausalLM.from_pretrained(name, { dtype: 'fp32' }).catch((error) => {
  if (!error.message.startsWith('Unsupported model type')) throw error
  console.log(`Transformers.js: ${error.message}`)
  process.exit(0)
})
const session = model.sessions.model
// Graphs of these families count positions themselves, as Optimum has them.
const counted = ['gemma', 'gemma2', 'gemma3_text', 'bloom'].includes(model.config.model_type)
if (session.inputNames.includes('position_ids') === counted) throw new Error(`position_ids: ${session.inputNames}`)

/** New tokens of each row. */
async function generate(ids, mask) {
  const found = await model.generate({ input_ids: ints(ids), attention_mask: ints(mask), ...options })
  return found.tolist().map((row) => row.slice(ids[0].length).map(Number))
}

for (const { prompt, greedy } of rows) {
  same((await generate([prompt], [prompt.map(() => 1)]))[0], greedy, `prompt ${prompt}`)
}
same(await generate(padded.input_ids, padded.attention_mask), rows.map(({ greedy }) => greedy), 'padded left')

// As users call it: from a text, by the folder's own tokenizer.
const texts = rows.filter(({ text }) => text !== undefined)
if (texts.length) {
  const tokenizer = await AutoTokenizer.from_pretrained(name)
  const ask = await pipeline('text-generation', name, { dtype: 'fp32' })
  for (const { text, prompt, greedy_text } of texts) {
    same(tokenizer.encode(text), prompt, text)
    const [{ generated_text }] = await ask(text, { ...options, return_full_text: false })
    same(generated_text, greedy_text, text)
  }
}
console.log(
  `Transformers.js: ${rows.length} prompts, 20 tokens each, alone and padded left as one batch, ${texts.length} as texts: PyTorch's`,
)
