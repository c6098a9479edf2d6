// Sources: base/compiler/typeinfer.jl, abstractinterpretation.jl, params.jl and src/gf.c of Julia 1.5.3.
#include "inference.h"

#include "breakpoints.h"

#include <cstring>

static jl_value_t *call_in_typeinf_world(jl_value_t **call, int count) {
    jl_value_t *volatile result = nullptr;
    JL_TRY {
        result = jl_call_in_typeinf_world(call, count);
    }
    JL_CATCH {
        result = nullptr;
    }
    return result;
}

static CachedResults *noting = nullptr;

CachedResults::CachedResults() : outer(noting) {
    static bool watching = false;
    if (!watching)
        set_breakpoint(runtime_function("jl_set_method_inferred"), false, [](const Arguments &call) {
            if (noting)
                noting->instances.push_back((jl_method_instance_t *)call.values[0]);
            return GO_ON;
        });
    watching = true;
    noting = this;
}

CachedResults::~CachedResults() { noting = outer; }

Inference::Inference(size_t world) : world(world) {}

bool Inference::infer(jl_method_instance_t *instance) {
    cached.clear();
    not_cached.clear();
    if (result_of(instance, world))
        return true;
    auto *compiler = (jl_module_t *)jl_get_global(jl_core_module, jl_symbol("Compiler"));
    jl_value_t **call;
    JL_GC_PUSHARGS(call, 3);
    call[0] = jl_get_global(compiler, jl_symbol("Params"));
    call[1] = jl_box_uint64(world);
    call[2] = call_in_typeinf_world(call, 2);
    if (call[2]) {
        call[0] = jl_get_global(compiler, jl_symbol("typeinf_ext"));
        call[1] = (jl_value_t *)instance;
        instance->inInference = 1;
        CachedResults noted;
        call_in_typeinf_world(call, 3);
        cached.swap(noted.instances);
        instance->inInference = 0;
        count++;
        // Params.cache has an InferenceResult, whose first field is the MethodInstance, for each frame: those whose
        // results were cached, once each, and the others
        auto *frames = (jl_array_t *)jl_get_field(call[2], "cache");
        std::unordered_multiset<jl_method_instance_t *> own(cached.begin(), cached.end());
        for (size_t i = 0; i < jl_array_len(frames); i++) {
            auto *framed = *(jl_method_instance_t **)jl_array_ptr_ref(frames, i);
            auto found = own.find(framed);
            if (found != own.end())
                own.erase(found);
            else
                not_cached.insert(framed);
        }
    }
    JL_GC_POP();
    return result_of(instance, world) != nullptr;
}

jl_code_instance_t *result_of(jl_method_instance_t *instance, size_t world) {
    jl_value_t *found = jl_rettype_inferred(instance, world, world);
    return found == jl_nothing ? nullptr : (jl_code_instance_t *)found;
}

bool same_answer(const jl_code_instance_t *a, const jl_code_instance_t *b) {
    if (a->rettype != b->rettype && !jl_types_equal(a->rettype, b->rettype))
        return false;
    if ((a->invoke == jl_fptr_const_return) != (b->invoke == jl_fptr_const_return))
        return false;
    return a->rettype_const == b->rettype_const ||
           (a->rettype_const && b->rettype_const && jl_egal(a->rettype_const, b->rettype_const));
}

static jl_array_t *code_of(const jl_code_instance_t *code) {
    return code->inferred && jl_typeis(code->inferred, jl_array_uint8_type) ? (jl_array_t *)code->inferred : nullptr;
}

bool same_result(const jl_code_instance_t *a, const jl_code_instance_t *b) {
    if (!same_answer(a, b))
        return false;
    jl_array_t *x = code_of(a), *y = code_of(b);
    if (!x || !y)
        return a->inferred == b->inferred;
    return jl_array_len(x) == jl_array_len(y) && !memcmp(jl_array_data(x), jl_array_data(y), jl_array_len(x));
}

bool may_be_inlined(const jl_code_instance_t *code) {
    jl_array_t *inferred = code_of(code);
    return inferred && jl_ir_flag_inlineable(inferred);
}
