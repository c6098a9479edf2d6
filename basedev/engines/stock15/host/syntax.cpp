#include "syntax.h"

#include "image.h"

#include <cctype>
#include <cstring>

namespace {

const char *type_name(jl_value_t *value) {
    return jl_symbol_name(((jl_datatype_t *)jl_typeof(value))->name->name);
}

void write_literal(Json &json, jl_value_t *value) {
    auto *type = (jl_datatype_t *)jl_typeof(value);
    std::string shown = type_name(value);
    shown += ' ';
    if (jl_is_int64(value)) {
        shown += std::to_string(jl_unbox_int64(value));
    }
    else if (jl_is_primitivetype(type)) {
        // the bits: two floats that print alike may differ
        const unsigned char *bytes = (const unsigned char *)value;
        for (size_t i = jl_datatype_size(type); i-- > 0;) {
            char digits[3];
            snprintf(digits, sizeof digits, "%02x", bytes[i]);
            shown += digits;
        }
    }
    json.open('{').key("v").string(shown).close('}');
}

void write_tree(Json &json, jl_value_t *value) {
    if (jl_is_expr(value)) {
        auto *expr = (jl_expr_t *)value;
        json.open('[').string(jl_symbol_name(expr->head));
        for (size_t i = 0; i < jl_expr_nargs(expr); i++)
            write_tree(json, jl_exprarg(expr, i));
        json.close(']');
    }
    else if (jl_is_symbol(value)) {
        json.string(jl_symbol_name((jl_sym_t *)value));
    }
    else if (jl_is_linenode(value)) {
        json.number(jl_linenode_line(value));
    }
    else if (value == jl_nothing) {
        json.raw("null");
    }
    else if (jl_is_string(value)) {
        json.open('{').key("s").string(jl_string_data(value), jl_string_len(value)).close('}');
    }
    else if (jl_is_quotenode(value)) {
        json.open('{').key("q");
        write_tree(json, jl_quotenode_value(value));
        json.close('}');
    }
    else if (jl_is_globalref(value)) {
        std::string name = jl_symbol_name(jl_globalref_mod(value)->name);
        json.open('{').key("g").string(name + "." + jl_symbol_name(jl_globalref_name(value))).close('}');
    }
    else {
        write_literal(json, value);
    }
}

bool is_identifier_part(unsigned char c) { return isalnum(c) || c == '_' || c == '!' || c >= 0x80; }

bool word_at(const std::string &text, size_t position, const char *word) {
    size_t length = strlen(word);
    return text.compare(position, length, word) == 0 &&
           (position + length >= text.size() || !is_identifier_part(text[position + length]));
}

// Behind the comment, or where it begins when it has no end: the parser tells that.
size_t skip_block_comment(const std::string &text, size_t position) {
    const size_t begin = position;
    int depth = 0;
    do {
        if (text.compare(position, 2, "#=") == 0) {
            depth++;
            position += 2;
        }
        else if (text.compare(position, 2, "=#") == 0) {
            depth--;
            position += 2;
        }
        else {
            position++;
        }
    } while (depth && position < text.size());
    return depth ? begin : position;
}

// The next byte that is no white space, comment or semicolon.
size_t skip_blank(const std::string &text, size_t position) {
    while (position < text.size()) {
        if (isspace((unsigned char)text[position]) || text[position] == ';')
            position++;
        else if (text.compare(position, 2, "#=") == 0) {
            size_t behind = skip_block_comment(text, position);
            if (behind == position)
                break;
            position = behind;
        }
        else if (text[position] == '#')
            position = std::min(text.find('\n', position), text.size());
        else
            break;
    }
    return position;
}

class Statements {
public:
    size_t count = 0;  // at top level of the text

    Statements(Json &json, const std::string &text) : json(json), text(text) {}

    // Writes the statements from `position` to the end of the text, or to the `end` of the module that
    // they stand in. Returns where it stopped.
    size_t write(size_t position, bool inside_module) {
        json.open('[');
        for (;; count += !inside_module) {
            position = skip_blank(text, position);
            if (position >= text.size() || (inside_module && word_at(text, position, "end")))
                break;
            size_t begin = position;
            if (!write_statement(begin, position)) {
                position = text.size();
                count += !inside_module;
                break;
            }
            // an `end` too many: the parser returns without having read anything
            if (position == begin)
                position++;
        }
        json.close(']');
        return position;
    }

private:
    Json &json;
    const std::string &text;
    size_t counted_to = 0;
    long lines_before = 0;

    // Statements are asked about in the order of the text, a module's own before those inside it.
    long line_of(size_t position) {
        for (; counted_to < position; counted_to++)
            lines_before += text[counted_to] == '\n';
        return lines_before + 1;
    }

    jl_value_t *parse(size_t position, bool greedy, size_t *end) {
        jl_value_t *answer = jl_parse_string(text.data(), text.size(), (int)position, greedy);
        *end = jl_unbox_long(jl_svecref(answer, 1));
        return jl_svecref(answer, 0);
    }

    bool write_statement(size_t begin, size_t &position) {
        long line = line_of(begin);
        jl_value_t *tree = parse(begin, true, &position);
        JL_GC_PUSH1(&tree);
        json.open('{').key("line").number(line).key("begin").number(begin).key("end").number(position);
        bool good = true;
        jl_sym_t *head = jl_is_expr(tree) ? ((jl_expr_t *)tree)->head : nullptr;
        if (head == jl_symbol("error") || head == jl_symbol("incomplete")) {
            jl_value_t *message = jl_expr_nargs(tree) ? jl_exprarg(tree, 0) : jl_nothing;
            json.key("error").string(jl_is_string(message) ? jl_string_data(message) : "syntax error");
            good = false;
        }
        else if (jl_value_t *module = module_in(tree)) {
            if (is_documented(tree)) {
                json.key("documentation");
                write_tree(json, jl_exprarg(tree, 2));
            }
            write_module(begin, module);
        }
        else {
            if (is_documented(tree)) {
                size_t after;
                parse(begin, false, &after);
                json.key("definition").number((long long)skip_blank(text, after));
            }
            json.key("tree");
            write_tree(json, tree);
        }
        json.close('}');
        JL_GC_POP();
        return good;
    }

    // A string literal before a definition: the parser makes a call of Core.@doc of it.
    static bool is_documented(jl_value_t *tree) {
        return jl_is_expr(tree) && ((jl_expr_t *)tree)->head == jl_symbol("macrocall") &&
               jl_is_globalref(jl_exprarg(tree, 0)) &&
               jl_globalref_name(jl_exprarg(tree, 0)) == jl_symbol("@doc");
    }

    // The module that this statement is, also where a docstring stands before it.
    static jl_value_t *module_in(jl_value_t *tree) {
        if (!jl_is_expr(tree))
            return nullptr;
        auto *expr = (jl_expr_t *)tree;
        if (expr->head == jl_symbol("module"))
            return tree;
        if (is_documented(tree))
            return module_in(jl_exprarg(expr, jl_expr_nargs(expr) - 1));
        return nullptr;
    }

    void write_module(size_t position, jl_value_t *module) {
        bool bare = jl_exprarg(module, 0) == jl_false;
        json.key("module").string(jl_symbol_name((jl_sym_t *)jl_exprarg(module, 1)));
        json.key("bare").raw(bare ? "true" : "false");
        const char *keyword = bare ? "baremodule" : "module";
        while (!word_at(text, position, keyword)) {  // a docstring
            size_t after;
            parse(position, false, &after);
            if (after == position)
                after++;
            position = skip_blank(text, after);
        }
        position = skip_blank(text, position + strlen(keyword));
        while (position < text.size() && is_identifier_part(text[position]))
            position++;
        json.key("body");
        write(position, true);
    }
};

// Line numbers, and what lone semicolons become.
bool is_nothing_to_do(jl_value_t *tree) {
    return jl_is_linenode(tree) || tree == jl_nothing ||
           (jl_is_expr(tree) && ((jl_expr_t *)tree)->head == jl_symbol("toplevel") && jl_expr_nargs(tree) == 0);
}

}  // namespace

void write_statements(Json &json, const std::string &text, bool check) {
    Statements statements(json, text);
    bool marked = text.compare(0, 3, "\xef\xbb\xbf") == 0;  // a byte order mark
    statements.write(marked ? 3 : 0, false);
    if (!check)
        return;
    // Julia itself reads a file as a whole; nothing of it may be missing here.
    jl_value_t *whole = jl_parse_input_line(text.data(), text.size(), "none", 4);
    JL_GC_PUSH1(&whole);
    size_t count = 0;
    if (jl_is_expr(whole) && ((jl_expr_t *)whole)->head == jl_symbol("toplevel"))
        for (size_t i = 0; i < jl_expr_nargs(whole); i++)
            count += !is_nothing_to_do(jl_exprarg(whole, i));
    JL_GC_POP();
    if (count != statements.count)
        fail("the statements of a file were not told apart as Julia does");
}
