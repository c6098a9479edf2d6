#include "effects.h"

#include "breakpoints.h"
#include "methods.h"

#include <cstring>
#include <set>
#include <tuple>

void Effects::add(const char *kind, jl_module_t *module, jl_sym_t *name, jl_module_t *from) {
    std::string text = jl_symbol_name(name);
    if (text.find('#') == std::string::npos || text[0] == '@')
        effects.push_back({step, kind, module, name, from});
}

void Effects::watch() {
    auto on = [&](const char *name, const std::function<void(const Arguments &)> &reached) {
        set_breakpoint(runtime_function(name), false, [reached](const Arguments &call) {
            reached(call);
            return GO_ON;
        });
    };
    // The arguments are those of Julia 1.5.3's src/module.c and src/method.c.
    auto of_binding = [this](const char *kind) {
        return [this, kind](const Arguments &call) {
            auto *binding = (jl_binding_t *)call.values[0];
            if (binding->owner)
                add(kind, binding->owner, binding->name);
        };
    };
    on("jl_checked_assignment", of_binding("assigned"));
    on("jl_declare_constant", of_binding("constant"));
    on("jl_generic_function_def", [this](const Arguments &call) {
        if (call.values[4])  // a global function: there is a binding
            add("function", (jl_module_t *)call.values[1], (jl_sym_t *)call.values[0]);
    });
    on("jl_module_export", [this](const Arguments &call) {
        add("exported", (jl_module_t *)call.values[0], (jl_sym_t *)call.values[1]);
    });
    auto of_name = [this](const char *kind) {
        return [this, kind](const Arguments &call) {
            add(kind, (jl_module_t *)call.values[0], (jl_sym_t *)call.values[2], (jl_module_t *)call.values[1]);
        };
    };
    on("jl_module_use", of_name("used"));
    on("jl_module_import", of_name("imported"));
    on("jl_module_using", [this](const Arguments &call) {
        auto *from = (jl_module_t *)call.values[1];
        add("using", (jl_module_t *)call.values[0], from->name, from);
    });
}

void Effects::write(Json &json) const {
    std::set<std::tuple<size_t, std::string, jl_module_t *, jl_sym_t *>> written;
    json.open('[');
    for (const Effect &effect : effects) {
        if (!written.emplace(effect.step, effect.kind, effect.module, effect.name).second)
            continue;
        json.open('{').key("step").number((long long)effect.step).key("kind").string(effect.kind);
        json.key("module").string(module_text(effect.module)).key("name").string(jl_symbol_name(effect.name));
        if (effect.from) {
            json.key("from").string(module_text(effect.from));
            // the runtime warns, and leaves what the module had
            bool single = strcmp(effect.kind, "using") != 0;
            bool conflict = single && jl_binding_owner(effect.module, effect.name) !=
                                          jl_binding_owner(effect.from, effect.name);
            json.key("conflict").raw(conflict ? "true" : "false");
        }
        json.close('}');
    }
    json.close(']');
}
