#include "trees.h"

#include "evaluate.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

enum Kind : char { EXPRESSION, SYMBOL, LINE, QUOTED, OF_CORE, STRING, PLAIN, TRUE, FALSE, NOTHING };

// Types of literals without pointers, by their places here.
jl_datatype_t *const *const PLAIN_TYPES[] = {
    &jl_int64_type, &jl_float64_type, &jl_float32_type, &jl_char_type,  &jl_uint8_type,
    &jl_uint16_type, &jl_uint32_type, &jl_uint64_type, &jl_int32_type,
};

std::string name_of(const Statement &statement) { return statement.file + '\0' + statement.text; }

class Writer {
public:
    std::string bytes;
    bool complete = true;  // whether all could be written

    // Seven bits a byte, the lowest first; all but the last one's highest bit is set.
    void number(uint64_t number) {
        for (; number > 127; number >>= 7)
            bytes += (char)(number | 128);
        bytes += (char)number;
    }
    void text(const std::string &text) {
        number(text.size());
        bytes += text;
    }
    void symbol(jl_sym_t *symbol) { text(jl_symbol_name(symbol)); }

    void tree(jl_value_t *code) {
        if (jl_is_expr(code)) {
            kind(EXPRESSION);
            symbol(((jl_expr_t *)code)->head);
            number(jl_expr_nargs(code));
            for (size_t i = 0; i < jl_expr_nargs(code); i++)
                tree(jl_exprarg(code, i));
        }
        else if (jl_is_symbol(code)) {
            kind(SYMBOL);
            symbol((jl_sym_t *)code);
        }
        else if (jl_is_linenode(code)) {
            kind(LINE);
            number((uint64_t)jl_linenode_line(code));
            tree(jl_linenode_file(code));
        }
        else if (jl_is_quotenode(code)) {
            kind(QUOTED);
            tree(jl_quotenode_value(code));
        }
        else if (jl_is_globalref(code) && jl_globalref_mod(code) == jl_core_module) {
            kind(OF_CORE);
            symbol(jl_globalref_name(code));
        }
        else if (jl_is_string(code)) {
            kind(STRING);
            text(std::string(jl_string_data(code), jl_string_len(code)));
        }
        else if (code == jl_true || code == jl_false || code == jl_nothing) {
            kind(code == jl_true ? TRUE : code == jl_false ? FALSE : NOTHING);
        }
        else {
            plain(code);
        }
    }

private:
    void kind(Kind kind) { bytes += kind; }

    void plain(jl_value_t *value) {
        auto *end = std::end(PLAIN_TYPES);
        auto *type = std::find_if(PLAIN_TYPES, end, [&](jl_datatype_t *const *one) { return jl_typeis(value, *one); });
        if (type == end) {
            complete = false;
            return;
        }
        kind(PLAIN);
        bytes += (char)(type - PLAIN_TYPES);
        bytes.append((const char *)jl_data_ptr(value), jl_datatype_size(**type));
    }
};

class Reader {
public:
    const char *at;

    explicit Reader(const char *at) : at(at) {}

    uint64_t number() {
        uint64_t number = 0;
        for (int shift = 0;; shift += 7) {
            auto byte = (unsigned char)*at++;
            number |= (uint64_t)(byte & 127) << shift;
            if (byte < 128)
                return number;
        }
    }
    // What was written as a text, without a copy of it.
    std::pair<const char *, size_t> text() {
        size_t size = number();
        at += size;
        return {at - size, size};
    }

    // Lines of `file` become `by` more.
    jl_value_t *tree(jl_sym_t *file, long by) {
        switch ((Kind)*at++) {
        case EXPRESSION: {
            jl_sym_t *head = symbol();
            size_t count = number();
            jl_array_t *arguments = jl_alloc_vec_any(count);
            for (size_t i = 0; i < count; i++)
                jl_array_ptr_set(arguments, i, tree(file, by));
            return jl_new_struct(jl_expr_type, head, arguments);
        }
        case SYMBOL:
            return (jl_value_t *)symbol();
        case LINE: {
            auto line = (long)number();
            jl_value_t *in = tree(file, by);
            return jl_new_struct(jl_linenumbernode_type, jl_box_long(line + (in == (jl_value_t *)file ? by : 0)), in);
        }
        case QUOTED:
            return jl_new_struct(jl_quotenode_type, tree(file, by));
        case OF_CORE:
            return jl_module_globalref(jl_core_module, symbol());
        case STRING: {
            auto own = text();
            return jl_pchar_to_string(own.first, own.second);
        }
        case PLAIN: {
            jl_datatype_t *type = *PLAIN_TYPES[(size_t)*at++];
            jl_value_t *value = jl_new_bits((jl_value_t *)type, (void *)at);
            at += jl_datatype_size(type);
            return value;
        }
        case TRUE:
            return jl_true;
        case FALSE:
            return jl_false;
        case NOTHING:
            return jl_nothing;
        }
        fail("kept statements can't be read");
    }

private:
    jl_sym_t *symbol() {
        auto name = text();
        return jl_symbol_n(name.first, name.second);
    }
};

}  // namespace

void Trees::keep(const std::vector<Statement> &statements, const std::string &path) {
    auto half = [&](size_t part) {
        return [&statements, part] {
            Writer all;
            for (size_t i = part; i < statements.size(); i += 2) {
                Writer own;
                own.tree(parsed_at(statements[i].file, 1, statements[i].text));
                if (!own.complete)
                    continue;
                all.text(name_of(statements[i]));
                all.text(own.bytes);
            }
            return all.bytes;
        };
    };
    FILE *file = fopen(path.c_str(), "wbe");
    if (!file)
        fail("cannot write " + path);
    for (auto &part : in_children("parsing", {half(0), half(1)}))
        fwrite(part.data(), 1, part.size(), file);
    if (ferror(file) || fclose(file))
        fail("cannot write " + path);
}

Trees::Trees(const std::string &path) {
    int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat about;
    if (file < 0 || fstat(file, &about))
        fail("cannot read " + path + ": " + strerror(errno));
    auto *begin = (const char *)mmap(nullptr, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (begin == MAP_FAILED)
        fail("cannot read " + path + ": " + strerror(errno));
    for (Reader reader(begin); reader.at < begin + about.st_size;) {
        const char *entry = reader.at;
        auto name = reader.text();
        entries[std::hash<std::string>()(std::string(name.first, name.second))] = entry;
        reader.text();
    }
}

jl_value_t *Trees::of(const Statement &statement) const {
    std::string wanted = name_of(statement);
    auto found = entries.find(std::hash<std::string>()(wanted));
    if (found != entries.end()) {
        Reader reader(found->second);
        auto name = reader.text();
        if (wanted.compare(0, std::string::npos, name.first, name.second) == 0) {
            reader.number();  // of bytes
            int collecting = jl_gc_enable(0);
            jl_value_t *tree = reader.tree(jl_symbol(statement.file.c_str()), statement.line - 1);
            jl_gc_enable(collecting);
            return tree;
        }
    }
    return parsed_at(statement.file, statement.line, statement.text);
}
