// Source text -> the statements in it, by Julia's own parser.
#pragma once

#include "json.h"

#include <string>

// Writes an array with one object a statement, in order:
//   {"line", "begin", "end", "tree"}                     an ordinary statement; with a docstring also
//                                                        "definition", where what is documented begins
//   {"line", "begin", "end", "module", "bare", "body"}   a module: its name, and its statements; "documentation" is
//                                                        the tree of its docstring
//   {"line", "begin", "end", "error"}                    the parser stopped at byte `end`: its message
// `line` counts from 1; `begin` and `end` are offsets in bytes.
//
// A tree is: an Expr [head, argument...]; a Symbol "name"; a LineNumberNode its line (a number, 1 where the statement begins);
// `nothing` null; a String {"s": text}; a QuoteNode {"q": tree}; a GlobalRef {"g": "Module.name"};
// any other literal {"v": "Type value"}.
// With `check`, the text is parsed as a whole too, to see that no statement got lost.
void write_statements(Json &json, const std::string &text, bool check);
