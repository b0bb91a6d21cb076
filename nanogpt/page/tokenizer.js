"use strict";
// Text to ids and back, as in chapter 1. A token is a string whose characters are its bytes.

class Tokenizer {
  constructor({ kind, tokens, special, start, stop }) {
    Object.assign(this, { kind, tokens, special, start, stop });
    const ordinary = tokens.map((token, id) => [token, id]).filter(([, id]) => !(id in special));
    this.ids = new Map(ordinary); // token -> id
  }

  encode(text) { // an unknown character is an error
    if (this.kind === "char") return Array.from(text, character => this.id(toBytes(character), character));
    const pieces = this.kind === "bpe" ? text.match(PIECE) ?? [] : [text];
    return pieces.flatMap(piece => mergePiece(toBytes(piece), this.ids)).map(token => this.id(token, token));
  }

  id(token, shown) {
    if (!this.ids.has(token)) throw new Error(`This model has never seen the character “${shown}”.`);
    return this.ids.get(token);
  }

  decode(ids) {
    return toText(ids.map(id => id in this.special ? "" : this.tokens[id]).join(""));
  }
}

// GPT-2's pattern: words, numbers and signs, each with the space before it, and white space
const PIECE = new RegExp(
  String.raw`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+$|\s+(?!\S)|\s`
    .replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}"), "gu");

// join the two neighbours that make the token with the smallest id, until no two make a token
function mergePiece(piece, ids) {
  const tokens = [...piece];
  while (tokens.length > 1) {
    let best = Infinity, at = 0;
    for (let i = 0; i + 1 < tokens.length; i++) {
      const made = ids.get(tokens[i] + tokens[i + 1]) ?? Infinity;
      if (made < best) [best, at] = [made, i];
    }
    if (best === Infinity) break;
    tokens.splice(at, 2, tokens[at] + tokens[at + 1]);
  }
  return tokens;
}

const toBytes = text => String.fromCharCode(...new TextEncoder().encode(text));
const toText = bytes => new TextDecoder().decode(Uint8Array.from(bytes, byte => byte.charCodeAt(0)));
