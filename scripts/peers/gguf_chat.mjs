// Lets llama.cpp generate greedily after texts, for gguf_chat.py: reads {"prompts": [text…], "new": n} and writes, of each,
// its tokens and those that follow, the token that ends a text among them.
//
//     node gguf_chat.mjs NODE_LLAMA_CPP MODEL.gguf
import path from "node:path";
import { pathToFileURL } from "node:url";

const [home, file] = process.argv.slice(2);
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(path.resolve(home, "dist/index.js")));
let text = "";
for await (const piece of process.stdin) text += piece;
const { prompts, new: most } = JSON.parse(text);

const llama = await getLlama({ build: "never", gpu: false, logLevel: LlamaLogLevel.error, skipDownload: true });
const model = await llama.loadModel({ modelPath: file });
const context = await model.createContext({ contextSize: 2048, threads: 1, experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32" });
const answers = [];
for (const prompt of prompts) {
  const ids = model.tokenize(prompt, true);
  const sequence = context.getSequence();
  const tokens = [];
  for await (const token of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) {
    tokens.push(token);
    if (tokens.length >= most || model.isEogToken(token)) break;
  }
  answers.push({ ids, tokens });
  await sequence.dispose();
}
process.stdout.write(JSON.stringify(answers), () => process.exit(0));
