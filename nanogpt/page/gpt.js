"use strict";
// A GPT in plain JavaScript. Functions and weights have the names of nanogpt's Python, so chapters 4 to 6 and 9
// explain this file. One token is read at a time: x is always one vector of the residual stream, of length C, and
// the cache holds the tokens before it. The page runs this file in a Web Worker, whose messages are at the end.

let config, transformer, lm_head;

const sum = values => values.reduce((total, value) => total + value, 0);
const add = (...vectors) => vectors[0].map((_, i) => sum(vectors.map(vector => vector[i])));
const row = ({ weight }, i, width) => weight.subarray(i * width, (i + 1) * width);

function dot(a, b, start = 0) { // four sums at a time, for speed: a with b from `start` on
  let s0 = 0, s1 = 0, s2 = 0, s3 = 0, i = 0;
  for (; i + 3 < a.length; i += 4) {
    s0 += a[i] * b[start + i];
    s1 += a[i + 1] * b[start + i + 1];
    s2 += a[i + 2] * b[start + i + 2];
    s3 += a[i + 3] * b[start + i + 3];
  }
  for (; i < a.length; i++) s0 += a[i] * b[start + i];
  return s0 + s1 + s2 + s3;
}

function linear(x, { weight, bias }) {
  const y = new Float32Array(weight.length / x.length);
  for (let o = 0; o < y.length; o++) y[o] = dot(x, weight, o * x.length) + (bias ? bias[o] : 0);
  return y;
}

function softmax(scores) {
  const best = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(scores, score => Math.exp(score - best)), total = sum(powers);
  return powers.map(power => power / total);
}

// Norms

function layerNorm(x, { weight, bias }) {
  const mean = sum(x) / x.length, variance = sum(x.map(value => (value - mean) ** 2)) / x.length;
  const scale = 1 / Math.sqrt(variance + config.norm_eps);
  return x.map((value, i) => (value - mean) * scale * weight[i] + (bias ? bias[i] : 0));
}

function rmsNorm(x, { weight }) {
  const scale = 1 / Math.sqrt(dot(x, x) / x.length + config.norm_eps);
  return x.map((value, i) => value * scale * weight[i]);
}

const norm = (x, part) => (config.norm === "rms" ? rmsNorm : layerNorm)(x, part);

// Attention: each head looks back at the tokens before this one

function rotate(x, position) { // rotary positions: dimension i turns together with dimension i + D / 2
  const half = x.length / 2, y = new Float32Array(x.length);
  for (let i = 0; i < half; i++) {
    let frequency = config.rope_theta ** (-i / half);
    if (config.rope_scaling) frequency = scaleFrequency(frequency, config.rope_scaling);
    const cos = Math.cos(position * frequency), sin = Math.sin(position * frequency);
    y[i] = x[i] * cos - x[i + half] * sin;
    y[i + half] = x[i + half] * cos + x[i] * sin;
  }
  return y;
}

function scaleFrequency(frequency, { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) {
  const turns = original_max_position_embeddings * frequency / (2 * Math.PI);
  const kept = Math.min(Math.max((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0), 1);
  return frequency * (kept + (1 - kept) / factor);
}

function attention(q, keys, values, first) { // first: the earliest token that this one may see
  const scores = keys.map((k, s) => s < first ? -Infinity : dot(q, k) / Math.sqrt(q.length));
  const weights = softmax(scores), y = new Float32Array(q.length);
  for (let s = first; s < weights.length; s++)
    for (let d = 0; d < y.length; d++) y[d] += weights[s] * values[s][d];
  return [y, weights];
}

function causalSelfAttention(x, attn, cache, isOff) {
  const { n_head, kv_heads, head_size } = config, position = cache.keys.length;
  const together = linear(x, attn.c_attn); // queries, keys and values of all heads
  const cut = (start, count) =>
    Array.from({ length: count }, (_, h) => together.slice((start + h) * head_size, (start + h + 1) * head_size));
  let q = cut(0, n_head), k = cut(n_head, kv_heads), v = cut(n_head + kv_heads, kv_heads);
  if (config.qk_norm) {
    q = q.map(head => rmsNorm(head, attn.q_norm));
    k = k.map(head => rmsNorm(head, attn.k_norm));
  }
  if (config.positions === "rotary") {
    q = q.map(head => rotate(head, position));
    k = k.map(head => rotate(head, position));
  }
  cache.keys.push(k);
  cache.values.push(v);
  const first = Math.max(cache.documentStart, config.window ? position - config.window + 1 : 0);
  const y = new Float32Array(n_head * head_size);
  cache.weights.push(q.map((query, h) => {
    const shared = Math.floor(h * kv_heads / n_head); // grouped-query attention: several queries share one key
    const [head, weights] =
      attention(query, cache.keys.map(heads => heads[shared]), cache.values.map(heads => heads[shared]), first);
    if (!isOff(h)) y.set(head, h * head_size); // a head that is off adds nothing
    return weights;
  }));
  return linear(y, attn.c_proj);
}

// The MLP, the block, the whole model

function erf(x) { // Abramowitz & Stegun 7.1.26, to 1.5e-7
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - series * Math.exp(-x * x));
}

function activation(x) {
  const half = x.length / 2;
  switch (config.mlp) {
    case "relu2": return x.map(value => Math.max(value, 0) ** 2);
    case "swiglu": return x.slice(0, half).map((gate, i) => gate / (1 + Math.exp(-gate)) * x[half + i]);
    case "gelu_exact": return x.map(value => 0.5 * value * (1 + erf(value / Math.SQRT2)));
    default: return x.map(value =>
      0.5 * value * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (value + 0.044715 * value ** 3))));
  }
}

const mlp = (x, { c_fc, c_proj }) => linear(activation(linear(x, c_fc)), c_proj);

function block(x, layer, cache, isOff) {
  x = add(x, causalSelfAttention(norm(x, layer.ln_1), layer.attn, cache, isOff));
  return add(x, mlp(norm(x, layer.ln_2), layer.mlp));
}

class Cache { // what the model has read: for each token what it was turned into, and each layer's keys and values
  constructor(off = []) {
    this.off = off; // heads that add nothing, as "layer.head"
    this.ids = [];
    this.embeddings = []; // of each token, by their names
    this.streams = []; // of each token, x before the first block and after every block
    this.losses = []; // of each token that was followed by another, as far as somebody has asked
    this.layers = Array.from({ length: config.n_layer }, () => ({ keys: [], values: [], weights: [] }));
  }
  truncate(length) {
    this.losses.length = Math.min(this.losses.length, Math.max(length - 1, 0));
    for (const list of [this.ids, this.embeddings, this.streams, ...this.layers.flatMap(layer =>
      [layer.keys, layer.values, layer.weights])]) list.length = Math.min(list.length, length);
  }
}

function hashNgrams(ids, start) { // the table's rows for the last 2, 3, … ids, in 64 bits as in Python
  const MIXER = 6364136223846793005n, wrap = value => BigInt.asIntN(64, value);
  const value = n => ids.length - n < start ? 0n : BigInt(ids[ids.length - n] + 1);
  const rows = [];
  let hash = value(1);
  for (let n = 2; n <= Math.max(...config.ngram_orders); n++) {
    hash = wrap(value(n) + hash * MIXER);
    if (!config.ngram_orders.includes(n)) continue;
    let mixed = wrap(hash * MIXER);
    mixed = wrap((mixed ^ (mixed >> 32n)) * MIXER) >> 32n;
    const size = BigInt(config.ngram_rows);
    rows.push(Number((mixed % size + size) % size) + config.ngram_rows * rows.length);
  }
  return rows;
}

function embed(cache, documentStart) {
  const position = cache.ids.length - 1, C = config.n_embd;
  const parts = { token: row(transformer.wte, cache.ids[position], C) };
  if (config.ngram_orders.length)
    parts["n-grams"] = add(...hashNgrams(cache.ids, documentStart).map(i => row(transformer.ngrams, i, C)));
  if (config.positions === "learned") parts.position = row(transformer.wpe, position, C);
  return parts;
}

function hiddenStates(id, cache) { // read one more token
  cache.ids.push(id);
  const documentStart = Math.max(cache.ids.lastIndexOf(config.document_token ?? NaN), 0);
  const parts = embed(cache, documentStart), stream = [add(...Object.values(parts))];
  for (let i = 0; i < config.n_layer; i++) {
    cache.layers[i].documentStart = documentStart;
    stream.push(block(stream[i], transformer.h[i], cache.layers[i], h => cache.off.includes(`${i}.${h}`)));
  }
  cache.embeddings.push(parts);
  cache.streams.push(stream);
  return stream.at(-1);
}

// scores of the ids that the tokenizer has; given an earlier x, this is the "logit lens"
const logits = x => linear(norm(x, transformer.ln_f), lm_head).subarray(0, config.vocabulary);

const forward = (id, cache) => logits(hiddenStates(id, cache));

// Choosing the next token

function filterLogits(logits, { temperature, top_k, top_p }) { // the probabilities that are drawn from
  const best = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  let scaled = Float64Array.from(logits, logit => (logit - best) / Math.max(temperature, 1e-30));
  if (top_k && top_k < scaled.length) {
    const least = scaled.slice().sort()[scaled.length - top_k];
    scaled = scaled.map(logit => logit < least ? -Infinity : logit);
  }
  const p = softmax(scaled);
  if (top_p < 1) {
    let before = 0; // of better tokens together
    for (const i of [...p.keys()].sort((a, b) => p[b] - p[a])) {
      if (before >= top_p) scaled[i] = -Infinity;
      before += p[i];
    }
  }
  return softmax(scaled);
}

function random(seed, position) { // a number from 0 to 1, the same for the same seed and position (mulberry32)
  let a = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) + Math.imul(position + 1, 0x6d2b79f5) | 0;
  a = Math.imul(a ^ a >>> 15, a | 1);
  a ^= a + Math.imul(a ^ a >>> 7, a | 61);
  return ((a ^ a >>> 14) >>> 0) / 2 ** 32;
}

function sample(p, u) { // the token in whose part of 0 … 1 the number u lies
  for (let i = 0; i < p.length; i++) if ((u -= p[i]) < 0) return i;
  return p.findLastIndex(probability => probability > 0); // where rounding left a gap at the end
}

// What the page asks for

let caches = {}; // of the whole model, and of the one with the heads that are off now

function read(ids, off) { // the cache after these ids; what it has read already is not read again
  if (!(off in caches)) caches = { ...("" in caches && { "": caches[""] }), [off]: new Cache(off) };
  const cache = caches[off];
  let same = 0;
  while (same < ids.length && cache.ids[same] === ids[same]) same++;
  cache.truncate(same);
  for (const id of ids.slice(same)) hiddenStates(id, cache);
  return cache;
}

function loss({ ids, streams, losses }) { // in nats per token, as in training
  for (let t = losses.length; t + 1 < ids.length; t++)
    losses.push(-Math.log(softmax(logits(streams[t].at(-1)))[ids[t + 1]]));
  return sum(losses) / losses.length;
}

const likeliest = (p, count) => [...p.keys()].sort((a, b) => p[b] - p[a]).slice(0, count);

const api = {
  load(definition, weights) { // weights: all tensors one after the other, as float16 in base64
    config = definition.config;
    const text = atob(weights), bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    const halves = new Uint16Array(bytes.buffer), model = {};
    let start = 0;
    for (const [name, shape] of definition.tensors) {
      const size = shape.reduce((a, b) => a * b, 1), path = name.split("."), last = path.pop();
      const parent = path.reduce((part, key) => part[key] ??= {}, model);
      parent[last] = new Float32Array(size);
      for (let i = 0; i < size; i++) parent[last][i] = float16(halves[start++]);
    }
    transformer = model.transformer;
    lm_head = model.lm_head ?? transformer.wte; // tied: the output layer is the token embedding
  },

  next(ids, off, settings, position) {
    const begin = performance.now(), x = read(ids, off).streams.at(-1).at(-1);
    const id = sample(filterLogits(logits(x), settings), random(settings.seed, position));
    return { id, seconds: (performance.now() - begin) / 1000 };
  },

  inspect(ids, off, settings, at, shown) { // everything that the page shows of the token at `at`
    const cache = read(ids, off), stream = cache.streams[at], scores = logits(stream.at(-1));
    const p = softmax(scores), drawn = filterLogits(scores, settings);
    const uncut = off.length ? read(ids, []) : cache; // with every head on
    const whole = off.length ? softmax(logits(uncut.streams[at].at(-1))) : p;
    const from = Math.max(ids.length - shown, 0), width = ids.length - from; // of the maps of attention
    const map = (weights, h) => {
      const cells = new Float32Array(width * width);
      for (let t = from; t < ids.length; t++) cells.set(weights[t][h].subarray(from), (t - from) * width);
      return cells;
    };
    const own = row(transformer.wte, ids[at], config.n_embd);
    const cosines = Float32Array.from({ length: config.vocabulary }, (_, i) => {
      const other = row(transformer.wte, i, config.n_embd);
      return i === ids[at] ? -1 : dot(own, other) / Math.sqrt(dot(own, own) * dot(other, other) + 1e-30);
    });
    return {
      next: likeliest(p, 8).map(id => ({ id, p: p[id], drawn: drawn[id], whole: whole[id] })),
      best: likeliest(whole, 1).map(id => ({ id, p: whole[id] }))[0],
      losses: off.length ? [loss(cache), loss(uncut)] : null,
      actual: at + 1 < ids.length ? { id: ids[at + 1], p: p[ids[at + 1]] } : null,
      lens: stream.map(x => {
        const guess = softmax(logits(x));
        return likeliest(guess, 3).map(id => ({ id, p: guess[id] }));
      }),
      attention: cache.layers.map(({ weights }) => weights[at].map(w => Float32Array.from(w))),
      maps: cache.layers.map(({ weights }) => weights[at].map((_, h) => map(weights, h))),
      from,
      embeddings: { ...cache.embeddings[at], sum: stream[0], output: stream.at(-1) },
      nearest: likeliest(cosines, 6).map(id => ({ id, cosine: cosines[id] })),
    };
  },
};

function float16(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}

onmessage = ({ data: [call, name, ...args] }) => {
  try {
    postMessage([call, api[name](...args)]);
  } catch (error) {
    postMessage([call, null, String(error)]);
  }
};
