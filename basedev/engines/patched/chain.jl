# Performs a revision in the process that writes a chained image (--output-o), and leaves what the image is to have.
# `STEPS` and `KEPT` come before this text, which `layer.py` puts into a module that nothing refers to. No method is defined here, no
# name is found by way of a `using`, which its module would note, and all is interpreted: so nothing of it gets into the
# image. What calls C is compiled, and a loop as a whole: those stand in quoted code, which is evaluated where there is
# something to do.
Base.Experimental.@compiler_options compile=min

const var"<=", var"<", var"==", var"!=", var"!", var"+", var"-", var"*", var":" =
    Base.:<=, Base.:<, Base.:(==), Base.:(!=), Base.:!, Base.:+, Base.:-, Base.:*, Base.:(:)
const var"===", isa, Any, Symbol, Int32 = Core.:(===), Core.isa, Core.Any, Core.Symbol, Core.Int32

invalidated = ccall(:jl_debug_method_invalidation, Any, (Int32,), 1)
log_level = Base.CoreLogging._min_enabled_level[]
Base.disable_logging(Base.CoreLogging.Error)  # a replaced docstring is not worth a warning

# What is told of docstrings need not be looked at where functions are defined only.
moves, infos, moving, trees, documents, includes = Base.Dict{Symbol,Any}(), Any[], Any[], Any[], false, false
for step in STEPS
    if step[1] === :move
        Base.push!(Base.get!(moves, step[2], Any[]), step)
        global documents = true
    elseif step[1] === :undocument
        global documents = true
    elseif step[1] === :include || step[1] === :exclude
        global includes = true
    elseif step[1] === :evaluate
        # What `make` parsed it with, which gives some code other lines: Julia's own parser comes with Base.
        is_of_base = Base.in(Base.moduleroot(step[2]), (Core, Base, Base.Compiler, Core.Main))
        parse = is_of_base ? Base.fl_parse : Core._parse
        tree = parse(step[5], step[3], step[4], 0, :all)[1]
        Base.push!(trees, tree)
        for part in tree.args
            isa(part, Core.Expr) || continue
            part.head === :function && continue
            short = part.head === :(=) ? part.args[1] : part.head
            isa(short, Core.Expr) && (short.head === :call || short.head === :where) && continue
            global documents = true
        end
    end
end
if documents
    for method in Base.MethodList(Core.methodtable).ms
        if Base.haskey(moves, method.file)
            Base.push!(moving, method)
            if Base.isdefined(method, :debuginfo)
                Base.push!(infos, method.debuginfo)
            end
            for step in moves[method.file]
                if step[3] <= method.line <= step[4]
                    method.line = method.line + step[5]
                    break
                end
            end
        end
    end
end

# So are the lines of their lowered code, which new native code gets. They are packed: with each statement's line, an edge
# and a place in that (ircode.c).
done = Base.IdSet{Any}()  # by address: others may have the same contents
Base.isempty(infos) || Core.eval(Base.@__MODULE__, quote
    while !Base.isempty(infos)
        info = Base.pop!(infos)
        Base.in(Base.pointer(info.codelocs), done) && continue
        Base.push!(done, Base.pointer(info.codelocs))
        Base.append!(infos, info.edges)
        packed = info.codelocs
        (Base.haskey(moves, info.def) && !Base.isempty(packed)) || continue
        header = Base.convert(Base.Ptr{Int32}, Base.pointer(packed))
        low, range, farthest = Base.unsafe_load(header, 1), Base.unsafe_load(header, 2), Base.unsafe_load(header, 3)
        steps = Any[]
        for step in moves[info.def]
            if step[3] <= low + range && low <= step[4]
                Base.push!(steps, step)
            end
        end
        Base.isempty(steps) && continue
        if Base.length(steps) == 1 && steps[1][3] <= low && low + range <= steps[1][4]
            Base.unsafe_store!(header, low + steps[1][5], 1)  # all other numbers are told from this one
            continue
        end
        line_bytes = range < 255 ? 1 : range < 65535 ? 2 : 4
        edge_bytes = farthest == 0 ? 0 : farthest < 255 ? 1 : farthest < 65535 ? 2 : 4
        count = Base.div(Base.sizeof(packed) - 12 - line_bytes, line_bytes + 2 * edge_bytes)
        lines = ccall(:jl_uncompress_codelocs, Any, (Any, Core.Int), packed, count)
        first_line = ccall(:jl_uncompress1_codeloc, Core.NTuple{3,Int32}, (Any, Core.Int), packed, 0)[1]
        Base.push!(lines, first_line)
        for place in 1:3:Base.length(lines)
            for step in steps
                if step[3] <= lines[place] <= step[4]
                    lines[place] = lines[place] + step[5]
                    break
                end
            end
        end
        first_line = Base.pop!(lines)
        moved = ccall(:jl_compress_codelocs, Any, (Int32, Any, Core.Int), first_line, lines, count)
        if Base.sizeof(moved) == Base.sizeof(packed)  # nearly always; in place, for nothing is to refer to what is new here
            Base.unsafe_copyto!(Base.pointer(packed), Base.pointer(moved), Base.sizeof(moved))
        end
    end
end)

# So are lines within quoted code: in whole expressions among a method's roots, and by themselves in its packed code, where
# native code has them from the list of global roots.
lines, quoting = Base.Dict{Base.Ptr{Core.Int},Core.Int}(), Any[]
Base.isempty(moving) || Core.eval(Base.@__MODULE__, quote
    for method in moving
        (Base.isdefined(method, :source) && isa(method.source, Base.String)) || continue
        code, count = Base.uncompressed_ir(method), Base.length(lines)
        parts = Base.copy(code.code)
        while !Base.isempty(parts)
            place = ccall(:jl_value_ptr, Base.Ptr{Core.Int}, (Any,), Base.last(parts))
            part = Base.pop!(parts)
            if isa(part, Core.Expr)
                Base.append!(parts, part.args)
            elseif isa(part, Core.QuoteNode)
                Base.push!(parts, part.value)
            elseif isa(part, Core.LineNumberNode) && Base.haskey(moves, part.file)
                rooted = ccall(:jl_as_global_root, Base.Ptr{Core.Int}, (Any, Int32), part, 0)
                for step in moves[part.file]
                    if step[3] <= part.line <= step[4]
                        lines[place] = lines[rooted] = part.line + step[5]
                        break
                    end
                end
            end
        end
        if count < Base.length(lines)
            Base.push!(quoting, (method, code))
        end
    end
    Base.delete!(lines, Base.Ptr{Core.Int}(0))  # what is not in that list
    for (place, line) in lines
        Base.unsafe_store!(place, line)
    end
    for (method, code) in quoting
        packed = ccall(:jl_compress_ir, Any, (Any, Any), method, code)
        if Base.sizeof(packed) == Base.sizeof(method.source)
            Base.unsafe_copyto!(Base.pointer(method.source), Base.pointer(packed), Base.sizeof(packed))
        end
    end
end)

# Docstrings are taken back and moved by their lines in the base image.
if documents
    orders, placed_data = Base.IdDict{Any,Any}(), Base.IdSet{Any}()
    for m in Base.copy(Base.Docs.modules)
        meta = Base.Docs.meta(m)
        for (binding, all) in Base.collect(meta)
            all isa Base.Docs.MultiDoc || continue
            orders[all] = Base.copy(all.order)
            for signature in orders[all]
                data = all.docs[signature].data
                (Base.haskey(data, :path) && Base.haskey(data, :linenumber)) || continue
                Base.push!(placed_data, data)
                line = data[:linenumber]
                for step in STEPS
                    if step[1] === :undocument && step[2] === m && step[3] == data[:path] && step[4] <= line <= step[5]
                        Base.delete!(all.docs, signature)
                        Base.setdiff!(all.order, Any[signature])
                        break
                    end
                end
            end
            if Base.isempty(all.docs)
                Base.delete!(meta, binding)
            end
        end
    end

    for (_, documented) in Base.Docs.keywords
        data = documented.data
        if Base.haskey(data, :path) && Base.haskey(data, :linenumber)
            Base.push!(placed_data, data)
        end
    end

    # A keyword and a name can have one together (`kw"Union{}", Base.Bottom`).
    for data in placed_data
        for step in STEPS
            if step[1] === :move && Base.string(step[2]) == data[:path] && step[3] <= data[:linenumber] <= step[4]
                data[:linenumber] = data[:linenumber] + step[5]
                break
            end
        end
    end
end

# Files that are included now, each behind the one before it, or no more. They are told relative to base/, but for those of
# standard libraries.
root = ""
if documents || includes
    for (_, file) in Base._included_files
        if Base.endswith(file, "/base/Base.jl")
            global root = Base.chopsuffix(file, "Base.jl")
        end
    end
end
for step in STEPS
    if step[1] === :include
        after = Base.joinpath(root, step[4])
        place = Base.lastindex(Base._included_files)
        while !(Base._included_files[place][2] == after)
            place = place - 1
        end
        Base.insert!(Base._included_files, place + 1, (step[2], Base.joinpath(root, step[3])))
    elseif step[1] === :exclude
        gone = Base.joinpath(root, step[3])
        for place in Base.reverse(Base.eachindex(Base._included_files))
            if Base._included_files[place][1] === step[2] && Base._included_files[place][2] == gone
                Base.deleteat!(Base._included_files, place)
            end
        end
    end
end

# The compiler's package is taken for this compiler while it has the same sources.
for step in STEPS
    if step[1] === :contents
        for place in Base.eachindex(Base._compiler_require_dependencies)
            known = Base._compiler_require_dependencies[place]
            if Base.endswith(step[2], known[2])
                size, checksum = Base.convert(Core.UInt64, step[3]), Base.convert(Core.UInt32, step[4])
                Base._compiler_require_dependencies[place] = (known[1], known[2], size, checksum, known[5])
            end
        end
    end
end

start = Base.get_world_counter()
limited = Any[]  # names of types of functions of which inference looks at another number of methods
for step in STEPS
    if step[1] === :evaluate
        tree = Base.popfirst!(trees)
        field = Base.Meta.isexpr(tree.args[end], :(=)) ? tree.args[end].args[1] : Core.nothing
        if Base.Meta.isexpr(field, :.) && field.args[2] == Core.QuoteNode(:max_methods)
            Base.push!(limited, Core.eval(step[2], field.args[1]))
        end
        Core.eval(step[2], tree)
    elseif step[1] === :delete
        for match in Base._methods_by_ftype(step[2], -1, Base.get_world_counter())
            if match.method.sig == step[2]
                Base.delete_method(match.method)
                break
            end
        end
    end
end

# Names that nothing bound again.
for step in STEPS
    if step[1] === :unbind && Base.lookup_binding_partition(Base.get_world_counter(), Core.GlobalRef(step[2], step[3])).min_world <= start
        Base.delete_binding(step[2], step[3])
    end
end

# Code is ended that was inferred with more methods for a call of a function than the one that is looked at now. Edges tell the
# methods of such a call, behind their number and its type. With another limit, all code was inferred anew.
Base.isempty(limited) || Core.eval(Base.@__MODULE__, quote
    for name in limited
        for method in Base.MethodList(Core.methodtable).ms
            for instance in Base.specializations(method)
                code = Base.isdefined(instance, :cache) ? instance.cache : Core.nothing
                while !(code === Core.nothing)
                    ends, place = false, 1
                    edges = Base.isdefined(code, :edges) ? code.edges : Core.svec()
                    while place <= Base.length(edges)
                        count = edges[place]
                        if count isa Core.Int
                            type = Base.unwrap_unionall(edges[place+1])
                            if name.max_methods == 1 && 1 < Base.abs(count) && type.parameters[1] === name.wrapper
                                ends = true
                            end
                            place = place + 1 + Base.abs(count)
                        end
                        place = place + 1
                    end
                    if ends && code.max_world == Base.typemax(Core.UInt)
                        ccall(:jl_invalidate_code_instance, Core.Cvoid, (Any, Core.UInt), code, Base.get_world_counter() - 1)
                    end
                    code = Base.isdefined(code, :next) ? code.next : Core.nothing
                end
            end
        end
    end
end)

# Docstrings of one name stand in the order in which they were there, new ones where Julia's build puts them: before it
# can document, it keeps them in a list from the last to the first.
if documents
    places = Base.Dict{Base.String,Any}()
    for (_, file) in Base._included_files
        Base.get!(places, Base.String(Base.chopprefix(file, root)), Base.length(places))
    end
    for m in Base.Docs.modules
        for (binding, all) in Base.Docs.meta(m)
            all isa Base.Docs.MultiDoc || continue
            placed, left = Any[], Base.copy(all.order)
            for known in Base.get(orders, all, Any[])
                for i in Base.eachindex(left)
                    if left[i] == known
                        Base.push!(placed, left[i])
                        Base.deleteat!(left, i)
                        break
                    end
                end
            end
            ranks = Base.IdDict{Any,Any}()
            if !Base.isempty(left)
                for signature in all.order
                    data = all.docs[signature].data
                    file = Base.get(places, Base.get(data, :path, ""), Base.length(places))
                    rank = 1000000 * file + Base.get(data, :linenumber, 0)
                    ranks[signature] = file < places["docs/Docs.jl"] ? -rank : rank
                end
            end
            for signature in left
                behind = 1
                for i in Base.eachindex(placed)
                    if ranks[placed[i]] <= ranks[signature]
                        behind = i + 1
                    end
                end
                Base.insert!(placed, behind, signature)
            end
            for i in Base.eachindex(placed)
                all.order[i] = placed[i]
            end
        end
    end
end

# What the last step of Julia's own build leaves behind (contrib/generate_precompile.jl).
Base.CoreLogging._min_enabled_level[] = log_level
Base.PROGRAM_FILE = ""
Base.Sys.BINDIR = ""
Base.Sys.STDLIB = ""
Base.empty!(Base.ARGS)
Base.empty!(Core.ARGS)
Base.empty!(Base.LOAD_PATH)
Base.empty!(Base.DEPOT_PATH)
Base.empty!(Base.TOML_CACHE.d)
Base.TOML.reinit!(Base.TOML_CACHE.p, "")

# What early cutoff keeps (cutoff.jl) is valid again; whatever else had native code gets it again. Nothing else is called
# from here on: native code in this process still calls what was compiled before the revision.
world = Base.get_world_counter()
numbers = Base.convert(Base.Ptr{Core.Int}, Base.pointer(KEPT))  # each list behind its length
begins = Base.reinterpret(Core.Int, Base.pointer_from_objref(Core.CodeInstance))
kept, kept_instances, stale, succeeded, ended = Any[], Base.IdSet{Any}(), Any[], Any[], Any[]
at = 6
kept_at = at + Base.unsafe_load(numbers, 1)
succeeded_at = kept_at + Base.unsafe_load(numbers, 2)
ended_at = succeeded_at + Base.unsafe_load(numbers, 3)
at < ended_at + Base.unsafe_load(numbers, 4) && Core.eval(Base.@__MODULE__, quote
    while at < ended_at + Base.unsafe_load(numbers, 4)
        code = Base.unsafe_pointer_to_objref(Base.reinterpret(Base.Ptr{Core.Cvoid}, begins + Base.unsafe_load(numbers, at)))
        instance = isa(code, Core.CodeInstance) ? code.def : code
        if !(isa(instance, Core.MethodInstance) && instance.specTypes.hash == Base.unsafe_load(numbers, at + 1))
            Base.error("what early cutoff keeps is not in this image")
        end
        if at < kept_at
            # Generators run what is compiled after the revision, as long as nothing else is valid.
            method = ccall(:jl_methtable_lookup, Any, (Any, Core.UInt), instance.def.sig, world)
            instance = Base.Compiler.specialize_method(method, instance.specTypes, instance.sparam_vals)
            place = Base.Ref{Core.CodeInstance}()
            try
                ccall(:jl_code_for_staged, Any, (Any, Core.UInt, Base.Ptr{Core.CodeInstance}), instance, world, place)
            catch
                # inference does without
            end
            global at = at + 2
            continue
        end
        if !(at < succeeded_at)
            Base.push!(at < ended_at ? succeeded : ended, code)
            global at = at + 2
            continue
        end
        Core.setfield!(code, :max_world, Base.typemax(Core.UInt), :monotonic)
        Core.setfield!(code, :ipo_purity_bits, Base.convert(Core.UInt32, Base.unsafe_load(numbers, at + 2)), :monotonic)
        Base.push!(kept, code)
        Base.push!(kept_instances, code.def)
        if Base.unsafe_load(numbers, at + 3) == 1
            Base.push!(stale, code)
        end
        global at = at + 4
    end
end)

anew = Base.IdSet{Any}()
for one in invalidated
    if isa(one, Core.MethodInstance) && isa(one.def, Core.Method) && !Base.in(one, kept_instances)
        Base.push!(anew, one)
    end
end

# An edited compiler infers all that it makes otherwise, and what the edit ended. Meanwhile the one before compiles what that
# needs in this process; what it made of that ends then, so that it is inferred by the edited one too.
Base.unsafe_load(numbers, 5) == 1 && Core.eval(Base.@__MODULE__, quote
    for code in ended
        Core.setfield!(code, :max_world, world - 1, :monotonic)
        if ccall(:jl_ci_has_image_code, Int32, (Any,), code) != 0
            Base.push!(anew, code.def)
        end
    end
    compilers = Base.unsafe_load(Core.Intrinsics.cglobal(:jl_typeinf_world, Core.UInt))
    instances = Any[]
    for method in Base.MethodList(Core.methodtable).ms
        Base.append!(instances, Base.specializations(method))
    end
    for instance in instances
        code = Base.isdefined(instance, :cache) ? instance.cache : Core.nothing
        while isa(code, Core.CodeInstance)  # what the image has for the compiler before only
            if compilers <= code.max_world < world - 1 && ccall(:jl_ci_has_image_code, Int32, (Any,), code) != 0
                Base.push!(anew, instance)
            end
            code = Base.isdefined(code, :next) ? code.next : Core.nothing
        end
    end
    for one in anew
        method = ccall(:jl_methtable_lookup, Any, (Any, Core.UInt), one.def.sig, world)
        if isa(method, Core.Method)
            instance = Base.Compiler.specialize_method(method, one.specTypes, one.sparam_vals)
            Base.push!(instances, instance)
            Base.Compiler.typeinf_ext(Base.Compiler.NativeInterpreter(world), instance, Base.Compiler.SOURCE_MODE_NOT_REQUIRED)
        end
    end
    Core.eval(ROOTS, :(const next_world = true))
    for instance in instances
        code = Base.isdefined(instance, :cache) ? instance.cache : Core.nothing
        while isa(code, Core.CodeInstance)
            if code.max_world == Base.typemax(Core.UInt) && ccall(:jl_object_in_image, Core.UInt8, (Any,), code) == 0
                Core.setfield!(code, :max_world, world, :monotonic)
            end
            code = Base.isdefined(code, :next) ? code.next : Core.nothing
        end
    end
    Base.invoke_in_world(world, Base.Compiler.activate_codegen!)
    global world = Base.get_world_counter()
end)

for one in anew
    Base.precompile(one.specTypes)
end

# Native code that stays comes to what took the place of what it calls.
Base.isempty(succeeded) || Core.eval(Base.@__MODULE__, quote
    for old in succeeded
        method = ccall(:jl_methtable_lookup, Any, (Any, Core.UInt), old.def.def.sig, world)
        instance = Base.Compiler.specialize_method(method, old.def.specTypes, old.def.sparam_vals)
        ccall(:jl_compile_method_instance, Core.Cvoid, (Any, Base.Ptr{Core.Cvoid}, Core.UInt), instance, Base.C_NULL, world)
        code = instance.cache
        while !(code.owner === Core.nothing && code.min_world <= world <= code.max_world)
            code = code.next
        end
        if code.rettype != old.rettype || Base.isdefined(code, :rettype_const) != Base.isdefined(old, :rettype_const)
            Base.error("what takes the place of a function is called in another way: ", instance)
        end
        Core.setfield!(code, :precompile, true, :monotonic)
        ccall(:jl_succeed_image_code, Core.Cvoid, (Any, Any), old, code)
    end
end)

# Edges are of what there is now, and lead back.
Base.isempty(stale) || Core.eval(Base.@__MODULE__, quote
    for code in stale
        edges = Any[]
        for edge in code.edges
            instance = isa(edge, Core.CodeInstance) ? edge.def : edge
            method = isa(instance, Core.MethodInstance) ? instance.def : instance
            if isa(method, Core.Method)
                present_method = ccall(:jl_methtable_lookup, Any, (Any, Core.UInt), method.sig, world)
                is_live = present_method === method
                if isa(instance, Core.MethodInstance) && !is_live
                    instance = Base.Compiler.specialize_method(present_method, instance.specTypes, instance.sparam_vals)
                end
                if isa(edge, Core.CodeInstance) && (!is_live || edge.max_world != Base.typemax(Core.UInt))
                    edge = instance
                    present = Base.isdefined(instance, :cache) ? instance.cache : Core.nothing
                    while isa(present, Core.CodeInstance)
                        if present.owner === Core.nothing && present.min_world <= world <= present.max_world
                            edge = present
                        end
                        present = Base.isdefined(present, :next) ? present.next : Core.nothing
                    end
                elseif !is_live
                    edge = isa(edge, Core.Method) ? present_method : instance
                end
            end
            Base.push!(edges, edge)
        end
        Core.setfield!(code, :edges, Core.svec(edges...), :release)
    end
end)
for code in kept
    Base.Compiler.store_backedges(code, code.edges)
end
