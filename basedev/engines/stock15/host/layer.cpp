// Code generation by the runtime (jl_create_native), and what jl_dump_native would do with the result, so that it
// refers to another object's code. Sources: src/aotcompile.cpp, codegen.cpp (emit_tojlinvoke), llvm-ptls.cpp of
// Julia 1.5.3.
#include "layer.h"

#include "inference.h"

#include <llvm-c/Core.h>
#include <llvm/Analysis/BasicAliasAnalysis.h>
#include <llvm/Analysis/Passes.h>
#include <llvm/Analysis/ScopedNoAliasAA.h>
#include <llvm/Analysis/TargetLibraryInfo.h>
#include <llvm/Analysis/TargetTransformInfo.h>
#include <llvm/Analysis/TypeBasedAliasAnalysis.h>
#include <llvm/IR/Constants.h>
#include <llvm/IR/Instructions.h>
#include <llvm/IR/LegacyPassManager.h>
#include <llvm/IR/Module.h>
#include <llvm/IR/Verifier.h>
#include <llvm/PassRegistry.h>
#include <llvm/Support/FileSystem.h>
#include <llvm/Support/Host.h>
#include <llvm/Support/TargetRegistry.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>
#include <llvm/Transforms/IPO.h>
#include <llvm/Transforms/IPO/AlwaysInliner.h>
#include <llvm/Transforms/InstCombine/InstCombine.h>
#include <llvm/Transforms/Scalar.h>
#include <llvm/Transforms/Scalar/GVN.h>
#include <llvm/Transforms/Scalar/InstSimplifyPass.h>
#include <llvm/Transforms/Vectorize.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <tuple>
#include <unistd.h>
#include <unordered_set>

using namespace llvm;

static const size_t WORTH_SPLITTING = 10;  // CodeInstances; below, the second process costs more than it saves

extern "C" {
void *jl_create_native(jl_array_t *methods, const jl_cgparams_t cgparams, int policy);
extern jl_cgparams_t jl_default_cgparams;
void LLVMExtraAddPropagateJuliaAddrspaces(LLVMPassManagerRef);
void LLVMExtraAddAllocOptPass(LLVMPassManagerRef);
void LLVMExtraAddLowerSimdLoopPass(LLVMPassManagerRef);
void LLVMExtraAddBarrierNoopPass(LLVMPassManagerRef);
void LLVMExtraAddLowerExcHandlersPass(LLVMPassManagerRef);
void LLVMExtraAddGCInvariantVerifierPass(LLVMPassManagerRef, LLVMBool strong);
void LLVMExtraAddLateLowerGCFramePass(LLVMPassManagerRef);
void LLVMExtraAddFinalLowerGCPass(LLVMPassManagerRef);
void LLVMExtraAddLowerPTLSPass(LLVMPassManagerRef, LLVMBool imaging_mode);
void LLVMExtraAddCombineMulAddPass(LLVMPassManagerRef);
}

// jl_native_code_desc_t, which the runtime keeps to itself.
struct NativeDescription {
    std::unique_ptr<Module> module;
    std::vector<GlobalValue *> fvars;
    std::vector<GlobalValue *> gvars;
    Functions functions;
    Values values;
};

struct Layer::Code {
    NativeDescription *generated = nullptr;
    NativeDescription merged;
};

namespace {

std::string fvar_name(uint32_t id) { return "jlf_" + std::to_string(id); }
std::string gvar_name(uint32_t id) { return "jlg_" + std::to_string(id); }

// ---- optimisation, in the order of addOptimizationPasses at level 3 ----

std::unique_ptr<TargetMachine> target_machine() {
    // What `-C generic` stands for (processor_x86.cpp, get_llvm_target_noext); the rest as in jl_dump_native.
    const char *cpu = "x86-64", *features = "+cx16,+sse2,+mmx,+fxsr,+64bit,+cx8";
    Triple triple(sys::getProcessTriple());
    std::string error;
    const Target *target = TargetRegistry::lookupTarget("", triple, error);
    if (!target)
        fail("LLVM does not know this machine: " + error);
    return std::unique_ptr<TargetMachine>(target->createTargetMachine(
        triple.getTriple(), cpu, features, TargetOptions(), Reloc::PIC_, CodeModel::Small, CodeGenOpt::Aggressive));
}

void add_target_passes(legacy::PassManager &passes, TargetMachine &target) {
    passes.add(new TargetLibraryInfoWrapperPass(Triple(target.getTargetTriple())));
    passes.add(createTargetTransformInfoWrapperPass(target.getTargetIRAnalysis()));
}

// Up to the lowering of thread-local state. Leaves out MultiVersioning: there is one target.
void add_early_passes(legacy::PassManager &passes) {
    LLVMPassManagerRef julia = wrap((legacy::PassManagerBase *)&passes);
    LLVMExtraAddPropagateJuliaAddrspaces(julia);
    passes.add(createScopedNoAliasAAWrapperPass());
    passes.add(createTypeBasedAAWrapperPass());
    passes.add(createBasicAAWrapperPass());
    passes.add(createCFGSimplificationPass());
    passes.add(createDeadCodeEliminationPass());
    passes.add(createSROAPass());
    passes.add(createAlwaysInlinerLegacyPass());
    LLVMExtraAddAllocOptPass(julia);
    passes.add(createInstructionCombiningPass());
    passes.add(createCFGSimplificationPass());
    passes.add(createSROAPass());
    passes.add(createInstSimplifyLegacyPass());
    passes.add(createJumpThreadingPass());
    passes.add(createReassociatePass());
    passes.add(createEarlyCSEPass());
    LLVMExtraAddAllocOptPass(julia);
    passes.add(createLoopRotatePass());
    passes.add(createLoopIdiomPass());
    LLVMExtraAddLowerSimdLoopPass(julia);
    passes.add(createLICMPass());
    passes.add(createLoopUnswitchPass());
    passes.add(createLICMPass());
    passes.add(createInstSimplifyLegacyPass());
    passes.add(createIndVarSimplifyPass());
    passes.add(createLoopDeletionPass());
    passes.add(createSimpleLoopUnrollPass());
    LLVMExtraAddAllocOptPass(julia);
    passes.add(createSROAPass());
    passes.add(createInstSimplifyLegacyPass());
    passes.add(createGVNPass());
    passes.add(createMemCpyOptPass());
    passes.add(createSCCPPass());
    passes.add(createInstructionCombiningPass());
    passes.add(createJumpThreadingPass());
    passes.add(createDeadStoreEliminationPass());
    LLVMExtraAddAllocOptPass(julia);
    passes.add(createCFGSimplificationPass());
    passes.add(createLoopDeletionPass());
    passes.add(createInstructionCombiningPass());
    passes.add(createLoopVectorizePass());
    passes.add(createLoopLoadEliminationPass());
    passes.add(createCFGSimplificationPass());
    passes.add(createSLPVectorizerPass());
    passes.add(createAggressiveDCEPass());
    LLVMExtraAddBarrierNoopPass(julia);
    LLVMExtraAddLowerExcHandlersPass(julia);
    LLVMExtraAddGCInvariantVerifierPass(julia, 0);
    LLVMExtraAddLateLowerGCFramePass(julia);
    LLVMExtraAddFinalLowerGCPass(julia);
    passes.add(createDeadCodeEliminationPass());
    LLVMExtraAddLowerPTLSPass(julia, 1);
}

void add_late_passes(legacy::PassManager &passes) {
    LLVMPassManagerRef julia = wrap((legacy::PassManagerBase *)&passes);
    passes.add(createCFGSimplificationPass());
    const PassInfo *remove_ni = PassRegistry::getPassRegistry()->getPassInfo(StringRef("RemoveNI"));
    if (!remove_ni)
        fail("this libjulia has no pass RemoveNI");
    passes.add(remove_ni->createPass());
    LLVMExtraAddCombineMulAddPass(julia);
    passes.add(createDivRemPairsPass());
}

void hide(GlobalValue *value) {
    value->setLinkage(GlobalValue::ExternalLinkage);
    value->setVisibility(GlobalValue::HiddenVisibility);
    value->setDSOLocal(true);
}

// LowerPTLS gives each module slots of its own; the loader fills in one pair only.
void share_ptls_slots(Module &module) {
    for (const char *name : {"jl_get_ptls_states_slot", "jl_tls_offset"}) {
        GlobalVariable *slot = module.getNamedGlobal(std::string(name) + ".real");
        if (!slot)
            continue;
        if (GlobalAlias *alias = module.getNamedAlias(name))
            alias->eraseFromParent();
        slot->setInitializer(nullptr);
        hide(slot);
        slot->setName(std::string("jlp_") + name);  // hidden, where the loader's name is exported
    }
}

void emit_object(Module &module, const std::string &path) {
    if (verifyModule(module, &errs()))
        fail("generated code is malformed");
    auto target = target_machine();
    module.setTargetTriple(target->getTargetTriple().str());
    DataLayout layout = target->createDataLayout();
    layout.reset(layout.getStringRepresentation() + "-ni:10:11:12:13");
    module.setDataLayout(layout);
    {
        legacy::PassManager passes;
        add_target_passes(passes, *target);
        add_early_passes(passes);
        passes.run(module);
    }
    share_ptls_slots(module);
    std::error_code error;
    raw_fd_ostream file(path, error, sys::fs::OF_None);
    if (error)
        fail("cannot write " + path + ": " + error.message());
    legacy::PassManager passes;
    add_target_passes(passes, *target);
    add_late_passes(passes);
    if (target->addPassesToEmitFile(passes, file, nullptr, TargetMachine::CGFT_ObjectFile, false))
        fail("LLVM cannot write object files for this machine");
    passes.run(module);
    file.close();
    if (file.has_error())
        fail("cannot write " + path + ": " + file.error().message());
}

// ---- references from the new module to the image ----

using ValueOfGlobal = std::map<GlobalValue *, void *>;

// The Julia object that an argument is: loaded from a gvar's slot.
void *object_of(Value *argument, const ValueOfGlobal &value_of) {
    for (;;) {
        argument = argument->stripPointerCasts();
        if (auto *cast = dyn_cast<AddrSpaceCastInst>(argument)) {
            argument = cast->getOperand(0);
            continue;
        }
        auto *load = dyn_cast<LoadInst>(argument);
        auto *global = load ? dyn_cast<GlobalValue>(load->getPointerOperand()->stripPointerCasts()) : nullptr;
        auto found = global ? value_of.find(global) : value_of.end();
        return found == value_of.end() ? nullptr : found->second;
    }
}

Function *declare(Module &module, const std::string &name, Function *like) {
    Constant *callee = cast<Constant>(module.getOrInsertFunction(name, like->getFunctionType()).getCallee());
    auto *function = cast<Function>(callee->stripPointerCasts());
    hide(function);
    if (function->isDeclaration() && function->getFunctionType() == like->getFunctionType()) {
        function->setAttributes(like->getAttributes());
        function->setCallingConv(like->getCallingConv());
    }
    return function;
}

void replace(Function *old, Function *by) {
    old->replaceAllUsesWith(ConstantExpr::getBitCast(by, old->getType()));
    old->eraseFromParent();
}

CallInst *only_call(Function *stub) {
    CallInst *call = nullptr;
    for (Instruction &instruction : stub->getEntryBlock())
        if (auto *found = dyn_cast<CallInst>(&instruction))
            call = found;
    return call;
}

// The functions with a specialized signature that do nothing but call this stub.
std::vector<Function *> prototypes_of(Function *stub) {
    std::vector<Function *> prototypes;
    stub->removeDeadConstantUsers();
    std::vector<User *> users(stub->user_begin(), stub->user_end());
    for (size_t i = 0; i < users.size(); i++) {
        if (isa<ConstantExpr>(users[i]))
            users.insert(users.end(), users[i]->user_begin(), users[i]->user_end());
        else if (auto *call = dyn_cast<CallInst>(users[i]))
            if (call->getFunction()->getName().startswith("j_"))
                prototypes.push_back(call->getFunction());
    }
    return prototypes;
}

}  // namespace

Layer::Layer(const Image &image, bool chained) : chained(chained), image(image), code(new Code) {
    if (!chained)
        return;
    fvars = image.fvars;
    gvars = image.gvars;
    for (auto &entry : image.native)
        code->merged.functions[entry.first] =
            std::make_tuple((uint32_t)entry.second.invoke, entry.second.specialized);
    for (auto &entry : image.gvar_of)
        code->merged.values[entry.first] = entry.second;
}

Layer::~Layer() = default;

void Layer::generate(const std::vector<jl_method_instance_t *> &instances, size_t world) {
    if (instances.empty())
        return;
    // With no IR to be seen for it, a callee becomes a stub that names its CodeInstance (jl_compile_workqueue); and
    // jl_create_native, which also generates code for the world of type inference, finds nothing to do there.
    std::vector<std::pair<jl_code_instance_t *, jl_value_t *>> hidden;
    auto hide_source = [&](jl_code_instance_t *instance, jl_value_t *shown) {
        hidden.push_back({instance, instance->inferred});
        instance->inferred = shown;
    };
    int gc_was_on = jl_gc_enable(0);
    if (chained) {
        for (jl_code_instance_t *old : image.order)
            hide_source(old, old->max_world >= world ? jl_nothing : nullptr);
        for (jl_method_instance_t *instance : instances) {
            instance->inInference = 1;
            for (jl_code_instance_t *old = instance->cache; old; old = old->next)
                if (old->max_world < world && !image.native.count(old))
                    hide_source(old, nullptr);
        }
    }
    jl_array_t *listed = jl_alloc_vec_any(0);
    JL_GC_PUSH1(&listed);
    for (jl_method_instance_t *instance : instances)
        jl_array_ptr_1d_push(listed, (jl_value_t *)instance);
    code->generated = (NativeDescription *)jl_create_native(listed, jl_default_cgparams, 0);
    JL_GC_POP();
    if (chained)
        for (jl_method_instance_t *instance : instances)
            instance->inInference = 0;
    for (auto &entry : hidden)
        entry.first->inferred = entry.second;
    jl_gc_enable(gc_was_on);

    NativeDescription &generated = *code->generated;
    Module &module = *generated.module;
    const uint32_t first_fvar = fvars;

    // The numbers of the new functions follow the old ones.
    auto numbered = [&](uint32_t id) {
        return id == 0 || (int32_t)id < 0 ? id : id + first_fvar;
    };
    for (auto &entry : generated.functions) {
        code->merged.functions[entry.first] =
            std::make_tuple(numbered(std::get<0>(entry.second)), numbered(std::get<1>(entry.second)));
        compiled++;
    }
    fvars += generated.fvars.size();

    // Calls of what has native code elsewhere: a direct call in place of each stub.
    ValueOfGlobal value_of;
    std::vector<void *> values(generated.gvars.size());
    for (auto &entry : generated.values) {
        value_of[generated.gvars[entry.second - 1]] = entry.first;
        values[entry.second - 1] = entry.first;
    }
    std::vector<Function *> stubs;
    for (Function &function : module)
        if (!function.isDeclaration() && function.getName().startswith("tojlinvoke"))
            stubs.push_back(&function);
    for (Function *stub : stubs) {
        CallInst *call = only_call(stub);
        void *object = call ? object_of(call->getArgOperand(3), value_of) : nullptr;
        if (!object)
            fail("a call of generated code can't be understood");
        if (jl_typeof((jl_value_t *)object) != (jl_value_t *)jl_code_instance_type) {
            calls_through_runtime++;
            continue;
        }
        auto found = code->merged.functions.find((jl_code_instance_t *)object);
        if (found == code->merged.functions.end())
            fail("generated code calls native code that is not in the image");
        auto invoke = (int32_t)std::get<0>(found->second);
        uint32_t specialized = std::get<1>(found->second);
        if (specialized && invoke != INVOKE_BOXED && invoke != INVOKE_SPARAMS)
            for (Function *prototype : prototypes_of(stub)) {
                replace(prototype, declare(module, fvar_name(specialized), prototype));
                calls_into_base++;
            }
        stub->removeDeadConstantUsers();
        if (stub->use_empty()) {
            stub->eraseFromParent();
        }
        else if (specialized && invoke == INVOKE_BOXED) {
            replace(stub, declare(module, fvar_name(specialized), stub));
            calls_into_base++;
        }
        else {
            std::string name = invoke == INVOKE_BOXED    ? "jl_fptr_args"
                               : invoke == INVOKE_SPARAMS ? "jl_fptr_sparam"
                                                          : fvar_name(invoke);
            FunctionCallee callee = module.getOrInsertFunction(name, call->getFunctionType());
            if (invoke > 0)
                hide(cast<GlobalValue>(callee.getCallee()->stripPointerCasts()));
            call->setCalledFunction(callee);
            calls_into_base++;
        }
    }
    // The names that the JIT knows old code by; every use was a stub's.
    for (auto function = module.begin(); function != module.end();) {
        Function &candidate = *function++;
        StringRef name = candidate.getName();
        if (!candidate.isDeclaration() ||
            !(name.startswith("jsysw_") || name.startswith("jlsys_") || name.startswith("jsys1_")))
            continue;
        if (!candidate.use_empty())
            fail(("generated code refers to " + name + ", which no image has").str());
        candidate.eraseFromParent();
    }

    // Values: one that an old slot holds is read from there.
    for (size_t i = 0; i < generated.gvars.size(); i++) {
        auto *slot = cast<GlobalVariable>(generated.gvars[i]);
        slot->removeDeadConstantUsers();
        if (slot->use_empty()) {
            slot->eraseFromParent();
            continue;
        }
        auto known = code->merged.values.find(values[i]);
        uint32_t id = known != code->merged.values.end() ? (uint32_t)known->second : ++gvars;
        code->merged.values[values[i]] = id;
        slot->setInitializer(nullptr);
        hide(slot);
        slot->setName(gvar_name(id));
    }

    // Names of functions are free for several parts and layers to use: each layer has its own suffix.
    for (size_t i = 0; i < generated.fvars.size(); i++) {
        auto *function = cast<Function>(generated.fvars[i]);
        GlobalAlias *alias = GlobalAlias::create(function->getValueType(), 0, GlobalValue::ExternalLinkage,
                                                 fvar_name(first_fvar + i + 1), function, &module);
        hide(alias);
    }
}

void Layer::start_emission(const std::string &directory, const std::string &name) {
    if (!compiled)
        return;
    const int parts = compiled > WORTH_SPLITTING ? 2 : 1;
    Module &module = *code->generated->module;
    std::vector<std::pair<size_t, Function *>> functions;
    for (Function &function : module)
        if (!function.isDeclaration())
            functions.push_back({function.getInstructionCount(), &function});
    std::stable_sort(functions.begin(), functions.end(),
                     [](const std::pair<size_t, Function *> &a, const std::pair<size_t, Function *> &b) {
                         return a.first > b.first;
                     });
    std::vector<size_t> load(parts);
    std::map<Function *, int> part_of;
    for (auto &entry : functions) {
        size_t part = std::min_element(load.begin(), load.end()) - load.begin();
        load[part] += entry.first + 20;
        part_of[entry.second] = (int)part;
    }
    fflush(nullptr);
    pid_t parent = getpid();
    for (int part = 0; part < parts; part++) {
        objects.push_back(directory + "/" + name + "." + std::to_string(part) + ".o");
        pid_t child = fork();
        if (child < 0)
            fail("cannot start a process for code generation");
        if (child > 0) {
            children.push_back(child);
            continue;
        }
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(4);
        for (int caught : {SIGSEGV, SIGABRT, SIGILL, SIGBUS, SIGTERM, SIGINT})
            signal(caught, SIG_DFL);
        if (parts > 1) {
            std::vector<GlobalAlias *> elsewhere;
            for (GlobalAlias &alias : module.aliases())
                if (part_of[cast<Function>(alias.getAliasee()->stripPointerCasts())] != part)
                    elsewhere.push_back(&alias);
            for (GlobalAlias *alias : elsewhere)
                alias->eraseFromParent();
            for (auto &entry : functions) {
                Function *function = entry.second;
                function->setName(function->getName() + "$" + name);
                if (part_of[function] != part)
                    function->deleteBody();
                hide(function);
            }
        }
        emit_object(module, objects.back());
        _exit(0);
    }
}

std::vector<std::string> Layer::finish_emission() {
    for (pid_t child : children) {
        int status;
        if (waitpid(child, &status, 0) != child || status)
            fail("code generation failed (status " + std::to_string(status) + ")");
    }
    children.clear();
    return objects;
}

std::vector<std::pair<uint32_t, uint32_t>> Layer::replaced(size_t since, size_t world,
                                                            const Successors &successors) const {
    std::vector<std::pair<uint32_t, uint32_t>> pairs;
    for (jl_code_instance_t *old : image.order) {
        bool ended = since <= old->max_world && old->max_world < world;
        auto successor = successors.find(old->def);
        jl_code_instance_t *now = successor != successors.end() ? result_of(successor->second, world)
                                  : ended                       ? result_of(old->def, world)
                                                                : nullptr;
        auto found = now ? code->merged.functions.find(now) : code->merged.functions.end();
        if (found == code->merged.functions.end())
            continue;
        const NativeCode &was = image.native.at(old);
        uint32_t specialized = std::get<1>(found->second);
        if (!was.specialized || !specialized || !same_answer(old, now))
            continue;
        bool boxed = (int32_t)std::get<0>(found->second) == INVOKE_BOXED;
        if (boxed != (was.invoke == INVOKE_BOXED))
            fail("compiled code has another calling convention than inference tells");
        pairs.push_back({was.specialized, specialized});
    }
    return pairs;
}

void *Layer::description() { return &code->merged; }
const Functions &Layer::functions() const { return code->merged.functions; }
const Values &Layer::values() const { return code->merged.values; }
