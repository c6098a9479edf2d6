#include "logging.h"

#include "methods.h"

namespace {

void collect_symbols(jl_value_t *code, std::unordered_set<jl_value_t *> &found) {
    if (jl_is_expr(code))
        for (size_t i = 0; i < jl_expr_nargs(code); i++)
            collect_symbols(jl_exprarg(code, i), found);
    else if (jl_is_quotenode(code) && jl_is_symbol(jl_quotenode_value(code)))
        found.insert(jl_quotenode_value(code));
}

void collect_symbols(jl_method_t *method, std::unordered_set<jl_value_t *> &found) {
    jl_code_info_t *code = lowered_code(method);
    JL_GC_PUSH1(&code);
    for (size_t i = 0; code && i < jl_array_len(code->code); i++)
        collect_symbols(jl_array_ptr_ref(code->code, i), found);
    JL_GC_POP();
}

}  // namespace

void free_log_ids(const Image &image, const std::string &file, long from, long to) {
    std::unordered_set<jl_value_t *> symbols;  // these are never collected
    jl_sym_t *name = jl_symbol(file.c_str());
    for (jl_value_t *object : image.all_of(jl_method_type)) {
        auto *method = (jl_method_t *)object;
        if (method->file == name && from <= method->line && method->line <= to)
            collect_symbols(method, symbols);
    }
    auto *logging = (jl_module_t *)jl_get_global(jl_base_module, jl_symbol("CoreLogging"));
    jl_value_t *ids = logging ? jl_get_global(logging, jl_symbol("_log_record_ids")) : nullptr;
    auto *remove = (jl_function_t *)jl_get_global(jl_base_module, jl_symbol("delete!"));
    for (jl_value_t *symbol : symbols)
        if (ids && !jl_call2(remove, ids, symbol))
            fail("Base.CoreLogging._log_record_ids is not as expected");
}
