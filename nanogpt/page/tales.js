"use strict";
// The judge of the tales: the parser of chapter 2, line by line. A grammar has rules, whose templates are lists of
// text and of slots [name, form]; and variables, each with the number of the table that it picks an entry from.

class ParseError { // not an Error: hundreds are thrown, and each Error would note the stack
  constructor(position, expected) {
    Object.assign(this, { position, expected });
  }
}

function parse(text, grammar, agreement = true) { // without agreement, a slot may say any entry, whatever was said
  const options = (name, bound) => {
    if (name in grammar.rules) return grammar.rules[name];
    if (name in bound) return [bound[name]];
    const table = grammar.variables[name];
    const taken = Object.keys(bound).filter(other => grammar.variables[other] === table).map(other => bound[other]);
    return grammar.tables[table].filter(entry => !taken.includes(entry));
  };

  const read = (item, start, before) => { // the position after the item, and what the variables are then
    if (typeof item === "string") {
      let same = 0;
      while (same < item.length && text[start + same] === item[same]) same++;
      if (same < item.length) throw new ParseError(start + same, item.slice(same));
      return [start + same, before];
    }
    const [name, form] = item;
    let furthest = null;
    for (const option of options(name, agreement ? before : {})) {
      let position = start, bound = form === null ? before : { ...before, [name]: option };
      try {
        for (const part of form === null ? option : [option[form]]) [position, bound] = read(part, position, bound);
        return [position, bound];
      } catch (error) {
        if (!(error instanceof ParseError)) throw error;
        if (!furthest || error.position > furthest.position) furthest = error;
      }
    }
    throw furthest;
  };

  const [end] = read([grammar.start, null], 0, {});
  if (end < text.length) throw new ParseError(end, "the end");
}

function taleLevel(text, grammar) { // the best level, and what is wrong with the next one
  let error = null;
  for (const [level, agreement] of [["consistent", true], ["well-formed", false]]) {
    try {
      parse(text, grammar, agreement);
      return { level, error, complete: true };
    } catch (problem) {
      if (!(problem instanceof ParseError)) throw problem;
      if (problem.position >= text.length) return { level, error, complete: false }; // right as far as it goes
      error = problem;
    }
  }
  return { level: "broken", error, complete: true };
}
