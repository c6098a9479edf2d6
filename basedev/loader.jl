# The loader, which performs the steps below in their order. It lives in a module that is bound nowhere: Main gets no
# names from it.
Base.invokelatest(Core.eval(Module(:BasedevRevision), quote
    # `Base.Iterators`, or a standard library's `LinearAlgebra.BLAS`.
    function find_module(name)
        parts = split(name, '.')
        roots = [m for m in values(Base.loaded_modules) if string(nameof(m)) == parts[1]]
        length(roots) == 1 || error("there is no module " * name)
        found = roots[1]
        for part in parts[2:end]
            found = getfield(found, Symbol(part))
        end
        return found
    end

    # `strings/util.jl:192`
    function split_place(place)
        colon = findlast(isequal(':'), place)
        return place[1:prevind(place, colon)], parse(Int, place[nextind(place, colon):end])
    end

    # Since 1.12, bindings have worlds, and all methods are in one table.
    const HAS_WORLDS = VERSION >= v"1.12-"

    # All methods of all functions and types that are in modules.
    function all_methods()
        found, tables, modules = Method[], Base.IdSet{Any}(), collect(Any, values(Base.loaded_modules))
        HAS_WORLDS && (Base.visit(method -> push!(found, method), Core.methodtable); return found)
        seen = Base.IdSet{Any}(modules)
        while !isempty(modules)
            m = pop!(modules)
            for name in names(m; all=true, imported=true)
                (isdefined(m, name) && !Base.isdeprecated(m, name)) || continue
                value = getfield(m, name)
                if value isa Module
                    value in seen || push!(modules, value)
                    push!(seen, value)
                    continue
                end
                for type in (value isa Type ? Base.unwrap_unionall(value) : nothing, typeof(value))
                    type isa DataType && isdefined(type.name, :mt) || continue
                    table = type.name.mt
                    (table isa Core.MethodTable && !(table in tables)) || continue
                    push!(tables, table)
                    Base.visit(method -> push!(found, method), table)
                end
            end
        end
        return found
    end

    # A type as the runtime prints it, with full module names.
    function type_text(type)
        stream = IOStream("type", zeros(UInt8, 512))
        ccall(:ios_mem, Ptr{Cvoid}, (Ptr{UInt8}, Csize_t), stream.ios, 0)
        ccall(:jl_static_show, Csize_t, (Ptr{UInt8}, Any), stream.ios, type)
        ccall(:ios_seek, Int64, (Ptr{UInt8}, Int64), stream.ios, 0)
        text = read(stream, String)
        ccall(:ios_close, Cvoid, (Ptr{UInt8},), stream.ios)
        return text
    end

    # The module's own entry for a name: a C struct of four pointers (name, value, globalref, owner), a byte that tells
    # a constant, and one of flags.
    function own_binding(m, name)
        VERSION < v"1.6-" || error("basedev does not know the bindings of this Julia")
        binding = ccall(:jl_get_module_binding, Ptr{UInt8}, (Any, Any), m, Symbol(name))
        binding == C_NULL && error(string(m, " has no name ", name))
        return binding
    end
    const VALUE, OWNER, CONSTANT = (1, 3, 4) .* sizeof(Ptr{Cvoid})
    const FLAGS, EXPORTED, IMPORTED = CONSTANT + 1, 0x01, 0x02
    clear_flags(binding, flags) = unsafe_store!(binding + FLAGS, unsafe_load(binding + FLAGS) & ~flags)

    # What there was at the start: steps name methods and docstrings by their lines in the base image. It is no type of
    # its own, because `methods(Type)` would show its constructors.
    function state_at_start(kinds)
        methods = any(in(kinds), ("move", "delete", "unlog")) ? all_methods() : Method[]
        docstrings = Tuple{Any,Any,Any,Any}[]
        for m in ("undocument" in kinds || "move" in kinds ? copy(Base.Docs.modules) : ()), (binding, all) in Base.Docs.meta(m)
            all isa Base.Docs.MultiDoc || continue
            for (signature, docstring) in all.docs
                push!(docstrings, (m, binding, signature, docstring))
            end
        end
        world = ccall(:jl_get_world_counter, UInt, ())
        return (methods=methods, moved=Base.IdSet{Any}(), docstrings=docstrings, unbound=Any[], world=world)
    end

    # One method for each kind of step. Its last argument is the text that follows the marker line.
    perform(::Val{:evaluate}, start, name, place, text) = begin
        file, line = split_place(place)
        Base.include_string(find_module(name), '\n'^(line - 1) * text, file)
    end

    is_live(method) = HAS_WORLDS ?
        any(match -> match.method === method, Base._methods_by_ftype(method.sig, -1, Base.get_world_counter())) :
        method.deleted_world == typemax(method.deleted_world)

    perform(::Val{:delete}, start, m, name, signature, _) = begin
        m = find_module(m)
        named = [method for method in start.methods if method.module === m && string(method.name) == name]
        filter!(is_live, named)
        for method in named
            type_text(method.sig) == signature && return Base.delete_method(method)
        end
        error("there is no method " * signature)
    end

    perform(::Val{:move}, start, file, first, last, by, _) = begin
        first, last, by = parse(Int, first), parse(Int, last), parse(Int, by)
        for method in start.methods
            string(method.file) == file && first <= method.line <= last && !(method in start.moved) || continue
            method.line += by
            push!(start.moved, method)  # the lines of a step are those of the base image: once is enough
        end
        for (_, _, _, docstring) in start.docstrings
            data = docstring.data
            get(data, :path, "") == file && first <= data[:linenumber] <= last && !(docstring in start.moved) || continue
            data[:linenumber] += by
            push!(start.moved, docstring)
        end
    end

    perform(::Val{:undocument}, start, m, file, first, last, _) = begin
        m, lines = find_module(m), parse(Int, first):parse(Int, last)
        for (name, docstring) in collect(Base.Docs.keywords)
            docstring isa Base.Docs.DocStr || continue
            data = docstring.data
            get(data, :path, "") == file && data[:linenumber] in lines && delete!(Base.Docs.keywords, name)
        end
        for (owner, binding, signature, docstring) in start.docstrings
            data = docstring.data
            owner === m && get(data, :path, "") == file && data[:linenumber] in lines || continue
            all = get(Base.Docs.meta(m), binding, nothing)
            all isa Base.Docs.MultiDoc && get(all.docs, signature, nothing) === docstring || continue
            delete!(all.docs, signature)
            filter!(one -> one != signature, all.order)
            isempty(all.docs) && delete!(Base.Docs.meta(m), binding)
        end
    end

    quoted_symbols(code) =
        code isa Expr || code isa Vector ? mapreduce(quoted_symbols, vcat, code isa Expr ? code.args : code; init=Symbol[]) :
        code isa QuoteNode && code.value isa Symbol ? [code.value] : Symbol[]

    perform(::Val{:unlog}, start, file, first, last, _) = begin
        HAS_WORLDS && return  # each message has an id of its own in any case
        lines = parse(Int, first):parse(Int, last)
        for method in start.methods
            string(method.file) == file && method.line in lines && isdefined(method, :source) || continue
            setdiff!(Base.CoreLogging._log_record_ids, quoted_symbols(Base.uncompressed_ast(method).code))
        end
    end

    # Files of Base are known by their names beside the first one.
    included_path(file) = joinpath(dirname(Base._included_files[1][2]), file)

    perform(::Val{:include}, start, m, file, after, _) = begin
        at = findlast(one -> one[2] == included_path(after), Base._included_files)
        insert!(Base._included_files, at + 1, (find_module(m), included_path(file)))
    end

    perform(::Val{:exclude}, start, m, file, _) =
        deleteat!(Base._included_files, findlast(isequal((find_module(m), included_path(file))), Base._included_files))

    perform(::Val{:unbind}, start, m, name, _) = begin
        HAS_WORLDS && return push!(start.unbound, (find_module(m), Symbol(name)))
        binding = own_binding(find_module(m), name)
        for field in (VALUE, OWNER)
            unsafe_store!(Ptr{Ptr{Cvoid}}(binding + field), C_NULL)
        end
        unsafe_store!(binding + CONSTANT, 0x00)
        clear_flags(binding, IMPORTED)
    end

    perform(::Val{:unexport}, start, m, name, _) = clear_flags(own_binding(find_module(m), name), EXPORTED)

    # With worlds, a name is bound again as it is, so that only those are left which nothing bound again.
    finish(start) = for (m, name) in start.unbound
        partition = Base.lookup_binding_partition(Base.get_world_counter(), GlobalRef(m, name))
        partition.min_world > start.world || Base.delete_binding(m, name)
    end

    # Words are divided by blanks; one with blanks in it stands in quotes, with escapes as in a string.
    words(line) = [
        String(found[1] === nothing ? found[2] : unescape_string(found[1]))
        for found in eachmatch(r"\"((?:[^\"\\]|\\.)*)\"|([^ ]+)", line[4:end])
    ]

    function load(path)
        lines = split(read(path, String), '\n')
        at = something(findfirst(isequal("#@ steps"), lines), length(lines)) + 1
        "#@ complete" in lines || error(path * " is cut off: export the revision again")
        start = state_at_start([split(line)[2] for line in lines[at:end] if startswith(line, "#@ ")])
        Base.CoreLogging.with_logger(Base.CoreLogging.NullLogger()) do
            while lines[at] != "#@ complete"
                if startswith(lines[at], "#@ ")
                    marker, (kind, arguments) = at, Iterators.peel(words(lines[at]))
                    text = SubString{String}[]
                    if kind == "evaluate"
                        while lines[at += 1] != "#@ end"
                            escaped = startswith(lines[at], "#|")
                            push!(text, escaped ? unescape_string(lines[at][4:end]) : lines[at])
                        end
                    end
                    try
                        perform(Val(Symbol(kind)), start, arguments..., join(text, '\n'))
                    catch error
                        throw(LoadError(path, marker, error))
                    end
                end
                at += 1
            end
            finish(start)
        end
        return nothing
    end
end), @__FILE__)
