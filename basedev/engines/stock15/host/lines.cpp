#include "lines.h"

#include "methods.h"

#include <algorithm>
#include <cstring>

void Lines::move(const std::string &file, long from, long to, long by) {
    moves[jl_symbol(file.c_str())].push_back({from, to, by});
}

long Lines::shift(jl_sym_t *file, long line) const {
    auto found = moves.find(file);
    if (found != moves.end())
        for (const Range &range : found->second)
            if (range.from <= line && line <= range.to)
                return range.by;
    return 0;
}

bool Lines::in_macro(jl_sym_t *file, long line) const {
    auto found = macros.find(file);
    if (found != macros.end())
        for (auto &lines : found->second)
            if (lines.first <= line && line <= lines.second)
                return true;
    return false;
}

// The last line of the file in lowered code, or in what that quotes.
static long last_line(jl_value_t *code, jl_sym_t *file) {
    long last = 0;
    if (!code)
        return last;
    if (jl_is_linenode(code))
        return jl_linenode_file(code) == (jl_value_t *)file ? jl_linenode_line(code) : last;
    if (jl_is_quotenode(code))
        return last_line(jl_quotenode_value(code), file);
    if (jl_is_expr(code))
        code = (jl_value_t *)((jl_expr_t *)code)->args;
    if (jl_typeis(code, jl_array_any_type))
        for (size_t i = 0; i < jl_array_len(code); i++)
            last = std::max(last, last_line(jl_array_ptr_ref(code, i), file));
    return last;
}

template <class F> static bool any_literal(jl_method_t *method, const F &is_meant) {
    for (size_t i = 0; method->roots && i < jl_array_len(method->roots); i++)
        if (is_meant(jl_array_ptr_ref(method->roots, i)))
            return true;
    return false;
}

void Lines::find_macros(const Image &image) {
    for (jl_value_t *object : image.all_of(jl_method_type)) {
        auto *method = (jl_method_t *)object;
        jl_code_info_t *code = *jl_symbol_name(method->name) == '@' && moves.count(method->file) ? lowered_code(method)
                                                                                               : nullptr;
        if (!code)
            continue;
        long last = std::max((long)method->line, last_line((jl_value_t *)code->code, method->file));
        macros[method->file].push_back({method->line, last});
        // The serializer has numbers for some names of files (common_symbols1.inc, common_symbols2.inc).
        unnamed |= !any_literal(method, [&](jl_value_t *literal) { return literal == (jl_value_t *)method->file; });
    }
}

jl_value_t *Lines::settled(jl_value_t *code, bool &changed) const {
    if (!code)
        return code;
    if (jl_is_linenode(code)) {
        jl_value_t *file = jl_linenode_file(code);
        long by = jl_is_symbol(file) ? shift((jl_sym_t *)file, jl_linenode_line(code)) : 0;
        if (!by)
            return code;
        changed = true;
        jl_value_t *line = jl_box_long(jl_linenode_line(code) + by);
        return jl_new_struct(jl_linenumbernode_type, line, file);
    }
    if (jl_is_expr(code)) {
        jl_array_t *arguments = ((jl_expr_t *)code)->args;
        for (size_t i = 0; i < jl_array_len(arguments); i++) {
            jl_value_t *old = jl_array_ptr_ref(arguments, i), *now = settled(old, changed);
            if (now != old)
                jl_array_ptr_set(arguments, i, now);
        }
    }
    else if (jl_is_quotenode(code)) {
        jl_value_t *old = jl_quotenode_value(code), *now = settled(old, changed);
        if (now != old)
            return jl_new_struct(jl_quotenode_type, now);
    }
    return code;
}

bool Lines::settle_fields(jl_value_t *object, jl_sym_t *made_in) const {
    auto *type = (jl_datatype_t *)jl_typeof(object);
    int file_at = jl_field_index(type, jl_symbol("file"), 0), line_at = jl_field_index(type, jl_symbol("line"), 0);
    if (file_at < 0 || line_at < 0 || jl_field_type(type, line_at) != (jl_value_t *)jl_int64_type)
        return false;
    auto *line = (int64_t *)((char *)object + jl_field_offset(type, line_at));
    auto *file = (jl_sym_t *)jl_fieldref(object, file_at);
    long by = file == made_in && !in_macro(file, *line) ? 0 : shift(file, *line);
    *line += by;
    return by != 0;
}

void Lines::settle(jl_method_t *method) const {
    // What a macro makes a function of can have a line of whoever called it with the macro's file: `@async (f(); g())`
    bool made_by_macro = *jl_symbol_name(method->name) != '@' && in_macro(method->file, method->line);
    method->line += (int32_t)shift(method->file, method->line);
    if (method->generator && jl_is_structtype(jl_typeof(method->generator)))
        settle_fields(method->generator);
    settle_code(method, (jl_value_t *)method, method->source, made_by_macro ? method->file : nullptr);
    // What is compiled from now on may have inferred code inlined, also such that this process has inferred.
    for (size_t i = 0; i < jl_svec_len(method->specializations); i++)
        if (auto *instance = (jl_method_instance_t *)jl_svecref(method->specializations, i))
            for (jl_code_instance_t *code = instance->cache; code; code = code->next)
                settle_code(method, (jl_value_t *)code, code->inferred);
}

// A table of lines has a Core.LineInfoNode for each place in the code.
void Lines::settle_code(jl_method_t *method, jl_value_t *owner, jl_value_t *&source, jl_sym_t *made_in) const {
    bool compressed = source && jl_typeis(source, jl_array_uint8_type);
    if (!compressed && !(source && jl_is_code_info(source)))
        return;
    auto *code = (jl_code_info_t *)source;
    jl_value_t *node = nullptr;
    JL_GC_PUSH2(&code, &node);
    if (compressed)
        code = jl_uncompress_ir(method, nullptr, (jl_array_t *)source);
    bool changed = false;
    int collecting = jl_gc_enable(0);
    for (size_t i = 0; i < jl_array_len(code->code); i++) {
        jl_value_t *old = jl_array_ptr_ref(code->code, i), *now = settled(old, changed);
        if (now != old)
            jl_array_ptr_set(code->code, i, now);
    }
    auto *table = (jl_array_t *)code->linetable;
    for (size_t i = 0; jl_is_array(table) && i < jl_array_len(table); i++) {
        jl_value_t *old = jl_array_ptr_ref(table, i);
        auto *type = (jl_datatype_t *)jl_typeof(old);
        node = (jl_value_t *)jl_new_struct_uninit(type);
        memcpy((void *)node, old, jl_datatype_size(type));
        if (!settle_fields(node, made_in))
            continue;
        jl_array_ptr_set(table, i, node);
        changed = true;
    }
    jl_gc_enable(collecting);
    if (changed && compressed) {
        source = (jl_value_t *)jl_compress_ir(method, code);
        jl_gc_wb(owner, source);
    }
    JL_GC_POP();
}

void Lines::settle(const Image &image) {
    if (moves.empty())
        return;
    find_macros(image);
    // Macros put lines of their own file into methods of others: such a file's name is among a method's literals, mostly.
    auto concerns = [&](jl_method_t *method) {
        return moves.count(method->file) ||
               any_literal(method, [&](jl_value_t *literal) { return moves.count((jl_sym_t *)literal) != 0; });
    };
    for (jl_value_t *object : image.all_of(jl_method_type))
        if (concerns((jl_method_t *)object))
            settle((jl_method_t *)object);
        else if (unnamed)
            settle_code((jl_method_t *)object, object, ((jl_method_t *)object)->source);
    // Native code of macros has what they quote as objects.
    for (jl_value_t *object : image.all_of(jl_linenumbernode_type))
        if (jl_is_symbol(jl_linenode_file(object)))
            *(int64_t *)object += shift((jl_sym_t *)jl_linenode_file(object), jl_linenode_line(object));
    moves.clear();
    macros.clear();
    unnamed = false;
}
