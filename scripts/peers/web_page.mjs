// Answers texts with a bundle's engines for `web` in a headless browser, through ONNX Runtime Web, and holds the answers
// against kilnc's.
//
//     mkdir place && cd place && npm install --ignore-scripts onnxruntime-web@1.30.0 @huggingface/tokenizers@0.2.0
//     node .../web_page.mjs KILNC BUNDLE wasm|webgpu TEXT...
//
// KILNC is the binary, BUNDLE a classifier's. The page has nothing but an export in the Hub's layout: texts are tokenized
// in the browser. kilnc runs the same files on ONNX Runtime for this processor, whose steps are rounded otherwise, so that
// scores in fewer than 32 bits are compared less closely. Where this processor's sums in 8 bits saturate, a browser's do not:
// its answers are then compared with those in 32 bits. `webgpu` asks for a GPU;
// where there is none, Chromium computes its shaders on the processor, slowly.

import { execFileSync, spawn } from 'node:child_process'
import { createReadStream, existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import path from 'node:path'

const FILES = {
  fp32: 'model.onnx',
  fp16: 'model_fp16.onnx',
  int8: 'model_quantized.onnx',
  int4: 'model_q4.onnx',
}
const TYPES = { '.html': 'text/html', '.mjs': 'text/javascript', '.json': 'application/json', '.wasm': 'application/wasm' }
const BROWSERS = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable']
const LIMIT = 300_000

const [kilnc, bundle, provider, ...texts] = process.argv.slice(2)
const run = (...args) => JSON.parse(execFileSync(kilnc, [...args, '--json', '--quiet']))

/** The first browser in PATH. */
function browser() {
  const folders = (process.env.PATH ?? '').split(path.delimiter)
  const programs = BROWSERS.flatMap((name) => folders.map((folder) => path.join(folder, name)))
  const found = programs.find((program) => existsSync(program))
  if (!found) throw new Error(`none of ${BROWSERS.join(', ')} is in PATH`)
  return found
}

/** Serves the page, the export and the modules, and resolves with what the page posts. */
function serve(asked, exported, listening) {
  const roots = { '/modules/': path.resolve('node_modules'), '/export/': exported }
  return new Promise((resolve, reject) => {
    const server = createServer((request, response) => {
      const { pathname } = new URL(request.url, 'http://localhost')
      if (request.method === 'POST') {
        const parts = []
        request.on('data', (part) => parts.push(part))
        request.on('end', () => {
          response.writeHead(204).end()
          server.close()
          resolve(JSON.parse(Buffer.concat(parts)))
        })
        return
      }
      if (pathname === '/asked') {
        response.writeHead(200, { 'content-type': TYPES['.json'] }).end(JSON.stringify(asked))
        return
      }
      const root = Object.keys(roots).find((prefix) => pathname.startsWith(prefix))
      const file = root
        ? path.join(roots[root], path.normalize(`/${pathname.slice(root.length)}`))
        : path.join(import.meta.dirname, 'web_page.html')
      if (!existsSync(file) || !statSync(file).isFile()) {
        response.writeHead(404).end()
        return
      }
      response.writeHead(200, { 'content-type': TYPES[path.extname(file)] ?? 'application/octet-stream' })
      createReadStream(file).pipe(response)
    })
    server.on('error', reject)
    server.listen(0, '127.0.0.1', () => listening(server.address().port, reject))
  })
}

/** What the page answers with these models of an export. */
async function inBrowser(models, exported, profile) {
  let child
  const limit = new Promise((_, reject) => {
    setTimeout(() => reject(new Error('the page does not answer')), LIMIT).unref()
  })
  try {
    const gpu = provider === 'webgpu' ? ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'] : ['--disable-gpu']
    const answered = serve({ models, texts, provider }, exported, (port, reject) => {
      const flags = ['--headless', '--no-sandbox', '--disable-dev-shm-usage', `--user-data-dir=${profile}`, ...gpu]
      child = spawn(browser(), [...flags, `http://127.0.0.1:${port}/`], { stdio: 'ignore' })
      child.on('error', reject)
    })
    const { found, error } = await Promise.race([answered, limit])
    if (error) throw new Error(error)
    return found
  } finally {
    child?.kill('SIGKILL')
  }
}

const place = mkdtempSync(path.join(tmpdir(), 'kilnc-'))
try {
  const exported = path.join(place, 'export')
  const { engines, labels } = run('inspect', bundle)
  const { files } = run('bundle', 'export', bundle, '--layout', 'hub', '-o', exported)
  const folder = files.some((file) => file.startsWith('web/')) ? 'web' : 'onnx'
  const known = path.join(place, 'labels.json')
  writeFileSync(known, JSON.stringify(labels))
  const web = engines.filter((engine) => engine.target === 'web' && FILES[engine.precision])
  if (web.length === 0) throw new Error('the bundle has no engine for web')
  const models = web.map((engine) => `${folder}/${FILES[engine.precision]}`)
  const exact = run('doctor').some(({ detail }) => detail.includes('adds products of 8 bits in 32'))
  const found = await inBrowser(models, exported, path.join(place, 'profile'))
  for (const [i, model] of models.entries()) {
    const saturates = web[i].precision === 'int8' && !exact
    const file = path.join(exported, saturates ? `${folder}/${FILES.fp32}` : model)
    const asked = texts.flatMap((text) => ['--text', text])
    const ours = run('run', file, '--tokenizer', path.join(exported, 'tokenizer.json'), '--labels', known, ...asked)
    const tolerance = web[i].precision === 'fp32' ? 1e-4 : saturates ? 0.05 : 0.02
    for (const [j, text] of texts.entries()) {
      const theirs = found[model].answers[j]
      const same = theirs.label === ours[j].label && Math.abs(theirs.score - ours[j].score) < tolerance
      if (!same) throw new Error(`${model}: ${text}: ${JSON.stringify([theirs, ours[j]])}`)
    }
    const speed = found[model].milliseconds.toFixed(1)
    console.log(`${model}: ${texts.length} texts answered by ${provider} as by ONNX Runtime, ${speed} ms each`)
  }
} finally {
  rmSync(place, { recursive: true, maxRetries: 10, retryDelay: 100 })
}
