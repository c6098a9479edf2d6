#include "bindings.h"

#include "methods.h"

#include <cstring>

void BindingSnapshot::for_each(const std::function<void(jl_module_t *, jl_binding_t *)> &visit) const {
    for (jl_value_t *object : image.objects_of(jl_module_type)) {
        auto *module = (jl_module_t *)object;
        void **table = module->bindings.table;
        for (size_t i = 1; i < module->bindings.size; i += 2)
            if (table[i] != HT_NOTFOUND && ((jl_binding_t *)table[i])->owner == module)
                visit(module, (jl_binding_t *)table[i]);
    }
}

BindingSnapshot::BindingSnapshot(const Image &image) : image(image) {
    for_each([&](jl_module_t *, jl_binding_t *binding) {
        before[binding] = {binding->value, (bool)binding->constp};
    });
}

static const char *kind_of(jl_binding_t *binding) {
    jl_value_t *value = binding->value;
    if (jl_is_module(value))
        return "module";
    if (jl_is_datatype(unwrap(value)))
        return "type";
    if (jl_isa(value, (jl_value_t *)jl_function_type))
        return "function";
    return binding->constp ? "constant" : "global";
}

void BindingSnapshot::write_changes(Json &json) const {
    json.open('[');
    for_each([&](jl_module_t *module, jl_binding_t *binding) {
        auto known = before.find(binding);
        if (!binding->value || strchr(jl_symbol_name(binding->name), '#'))
            return;
        if (known != before.end() && known->second.value == binding->value &&
            known->second.constant == (bool)binding->constp)
            return;
        bool is_new = known == before.end() || !known->second.value;
        json.open('{').key("module").string(module_text(module));
        json.key("name").string(jl_symbol_name(binding->name)).key("kind").string(kind_of(binding));
        json.key("new").raw(is_new ? "true" : "false").close('}');
    });
    json.close(']');
}
