// What of chained system images (see chained.h) is done to LLVM's modules.

// Gives every function in the table of a shard the hidden symbol `jlfv_<index>`, so that shards that are linked with
// this one later can call it directly.
static void emit_fvar_symbols(Module &M)
{
    auto suffix_md = M.getModuleFlag("julia.mv.suffix");
    if (!suffix_md || jl_options.incremental)
        return;
    auto suffix = cast<MDString>(suffix_md)->getString();
    auto ptrs = M.getGlobalVariable(("jl_fvar_ptrs" + suffix).str());
    auto idxs = M.getGlobalVariable(("jl_fvar_idxs" + suffix).str());
    if (!ptrs || !idxs || !ptrs->hasInitializer() || !idxs->hasInitializer())
        return;
    auto functions = dyn_cast<ConstantArray>(ptrs->getInitializer());
    if (!functions)
        return;
    for (unsigned i = 0; i < functions->getNumOperands(); i++) {
        auto F = dyn_cast<Function>(functions->getOperand(i)->stripPointerCasts());
        auto index = dyn_cast_or_null<ConstantInt>(idxs->getInitializer()->getAggregateElement(i));
        if (!F || !index || F->isDeclaration())
            continue;
        auto symbol = GlobalAlias::create(F->getFunctionType(), F->getAddressSpace(), GlobalValue::ExternalLinkage,
                                          "jlfv_" + Twine(index->getZExtValue()), F, &M);
        symbol->setVisibility(GlobalValue::HiddenVisibility);
        symbol->setDSOLocal(true);
    }
}

// The functions of old shards that `M` calls are in the same shared object.
static void hide_called_fvars(Module &M)
{
    for (auto &F : M) {
        if (F.isDeclaration() && F.getName().starts_with("jlfv_")) {
            F.setVisibility(GlobalValue::HiddenVisibility);
            F.setDSOLocal(true);
        }
    }
}

// The only shard of a chained image's new code is not the first of the image.
static void renumber_only_shard(Module &M)
{
    if (!jl_image_chained())
        return;
    auto suffix = "_" + std::to_string(jl_image_chain()->shards);
    for (const char *name : {"jl_gvar_offsets", "jl_gvar_idxs"}) {
        if (auto GV = M.getNamedValue(std::string(name) + "_0"))
            GV->setName(name + suffix);
    }
}

// Says in the metadata that all functions of the image's table have symbols.
static void emit_chainable(Module &M)
{
    auto T_int8 = Type::getInt8Ty(M.getContext());
    new GlobalVariable(M, T_int8, true, GlobalVariable::ExternalLinkage, ConstantInt::get(T_int8, 1), "jl_image_chainable");
}

// Adds the heap to a file beside the archive, where it need not go through LLVM. What LLVM gets in its place is one byte, which `sysdata` does not keep.
static void write_heap_aside(const ios_t *heap, GlobalVariable *sysdata, const char *archive)
{
    sysdata->setInitializer(nullptr);
    auto path = std::string(archive) + ".image";
    std::error_code error;
    raw_fd_ostream file(path, error, sys::fs::OF_Append);
    size_t written = 0;
    for (auto part = jl_heap_parts(); part->data; part++) {
        file.write((const char*)heap->buf + written, part->place - written);
        file.write(part->data, part->size);
        written = part->place + part->size;
    }
    file.write((const char*)heap->buf + written, heap->size - written);
    file.close();
    if (error || file.has_error()) {
        jl_safe_printf("ERROR: cannot write %s\n", path.c_str());
        exit(1);
    }
}
