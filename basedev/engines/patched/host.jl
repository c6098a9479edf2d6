# The host: a process on a base image that answers questions about sources and definitions, by Julia's own parser and
# method table. basedev decides what is to be done.
#
#   julia -J IMAGE -L host.jl -e "BasedevHost.serve(DESCRIPTOR)"
#
# Without -L on an image that has the module (`hostimage.py`). Requests come on standard input, answers go to the file
# descriptor: each a line with its length in bytes, and that many bytes of JSON. A request is a line of words, some of
# which are the lengths of byte strings that follow it.
#
#   parse COUNT, then COUNT times a line LENGTH and a text
#                                      for each text an array with one object a statement, as the engine for Julia 1.5
#                                      has it (stock15/host/syntax.h)
#   trial COUNT ALIKE..., then COUNT steps
#                                      {"defined", "names", "effects", "errors", "emptied", "invalidated"}:
#                                      what the steps do. They are done for good; ask another host after that. The numbers
#                                      of those come first that define generated methods again which generate the same
#   impact COUNT, then COUNT steps     what `trial` tells, and what the steps invalidate, as `impact.jl` describes it
#   compiler                           after a trial: the argument types of what Julia's compiler uses that the steps change
#   census LENGTH COUNT                and then a path and so many statements as steps `evaluate`: writes to the file what
#                                      each runs. Answers with a digest of what each gives, or "error: " and a message
#   affected LENGTH                    and then such a path: {"computed", "never_generated"} after a trial: the numbers of the
#                                      statements that ran what is another now, and generators that were never called
#   results COUNT                      and then statements: a digest of what each gives, as above
#   documented COUNT                   and then statements that document: a digest of the docstrings that these make
#   users LENGTH LENGTH                and then a module and a name: in which modules it stands for the same
#   left LENGTH LENGTH                 after a trial that bound a name to something else: what has still what it was
#   kept                               after a trial, as the last request: {"reason", "kept", "succeeded", "generated", "inferred"}: of what
#                                      it ended, what stays valid (where it is in the base image's heap, the hash of its
#                                      types, its effects, whether an edge of it is past), and what that calls and is another
#                                      now; or why nothing stays
#   anew LENGTH                        and then a path: infers all that the image has once more, by the compiler that is there, and
#                                      writes to the file what comes out. Answers with the error if that fails
#   kept_anew LENGTH                   after a trial and `anew`, and then the path of what another host wrote: {"ended", "kept",
#                                      "succeeded"}: what the edited compiler makes otherwise and the steps did not end; what
#                                      calls that and stays; and what is called
#   unstable                           the argument types of all that has native code and comes out otherwise when it is
#                                      inferred once more
#   checksum LENGTH                    and then a text: its CRC-32c
#   native                             the argument types of all that has native code in the image
#   facts                              {"version", "files": [[module, path]...], "parser": a file of it}: what the image
#                                      was made from
#
# A step is a line of words and the byte strings whose lengths it has, as `requests.py` writes them.
module BasedevHost

# ---- JSON: an object is a vector of pairs, so that one method does for all ----

const Object = Vector{Pair{String,Any}}

struct Tree
    value::Any
end

function json(io::IOBuffer, @nospecialize(value))
    if value isa String
        json_string(io, value)
    elseif value isa Symbol
        json_string(io, String(value))
    elseif value isa Bool
        print(io, value ? "true" : "false")
    elseif value isa Int
        print(io, value)
    elseif value === nothing
        print(io, "null")
    elseif value isa Tree
        json_tree(io, value.value)
    elseif value isa Object
        print(io, '{')
        for number in eachindex(value)
            number > 1 && print(io, ',')
            json_string(io, value[number].first)
            print(io, ':')
            json(io, value[number].second)
        end
        print(io, '}')
    else
        json_list(io, value::Vector{Any})
    end
    return nothing
end

function json_list(io::IOBuffer, values::Vector{Any})
    print(io, '[')
    for number in eachindex(values)
        number > 1 && print(io, ',')
        json(io, values[number])
    end
    print(io, ']')
end

function json_string(io::IOBuffer, text::String)
    print(io, '"')
    for byte in codeunits(text)
        if byte == UInt8('"') || byte == UInt8('\\')
            write(io, UInt8('\\'), byte)
        elseif byte < 0x20
            print(io, "\\u", string(byte, base = 16, pad = 4))
        else
            write(io, byte)
        end
    end
    print(io, '"')
end

json_tagged(io::IOBuffer, tag::String, @nospecialize(value)) = json(io, Object([tag => value]))

function json_tree(io::IOBuffer, @nospecialize(value))
    if value isa Expr
        json_list(io, Any[value.head, Any[Tree(part) for part in value.args]...])
    elseif value isa Symbol || value === nothing
        json(io, value)
    elseif value isa LineNumberNode
        print(io, value.line)
    elseif value isa String
        json_tagged(io, "s", value)
    elseif value isa QuoteNode
        json_tagged(io, "q", Tree(value.value))
    elseif value isa GlobalRef
        json_tagged(io, "g", string(nameof(value.mod), '.', value.name))
    elseif value isa Float64
        # the bits: two floats that print alike may differ
        json_tagged(io, "v", string("Float64 ", reinterpret(UInt64, value)))
    elseif value isa Float32
        json_tagged(io, "v", string("Float32 ", reinterpret(UInt32, value)))
    elseif value isa Char
        json_tagged(io, "v", string("Char ", reinterpret(UInt32, value)))
    else
        json_tagged(io, "v", string(nameof(typeof(value)), ' ', value))
    end
end

# ---- statements of a text ----

is_blank(byte) = byte in (UInt8(' '), UInt8('\t'), UInt8('\n'), UInt8('\v'), UInt8('\f'), UInt8('\r'), UInt8(';'))
is_identifier_part(byte) =
    byte >= 0x80 || byte in UInt8('a'):UInt8('z') || byte in UInt8('A'):UInt8('Z') ||
    byte in UInt8('0'):UInt8('9') || byte in (UInt8('_'), UInt8('!'))

starts(text, at, what) =
    at + ncodeunits(what) - 1 <= ncodeunits(text) &&
    all(codeunit(text, at + i - 1) == codeunit(what, i) for i in 1:ncodeunits(what))

word_at(text, at, word) =
    starts(text, at, word) &&
    (at + ncodeunits(word) > ncodeunits(text) || !is_identifier_part(codeunit(text, at + ncodeunits(word))))

# Behind the comment; where it begins when it has no end, which the parser tells.
function skip_block_comment(text, at)
    begins, depth = at, 0
    while at <= ncodeunits(text)
        if starts(text, at, "#=")
            depth += 1
            at += 2
        elseif starts(text, at, "=#")
            depth -= 1
            at += 2
            depth == 0 && return at
        else
            at += 1
        end
    end
    return begins
end

# The next byte that is no white space, comment or semicolon.
function skip_blank(text, at)
    while at <= ncodeunits(text)
        if is_blank(codeunit(text, at))
            at += 1
        elseif starts(text, at, "#=")
            behind = skip_block_comment(text, at)
            behind == at && break
            at = behind
        elseif codeunit(text, at) == UInt8('#')
            while at <= ncodeunits(text) && codeunit(text, at) != UInt8('\n')
                at += 1
            end
        else
            break
        end
    end
    return at
end

parse_at(text, at, rule) = Core._parse(text, "none", 1, at - 1, rule)

is_documented(tree) =
    Meta.isexpr(tree, :macrocall) && tree.args[1] isa GlobalRef && tree.args[1].name === Symbol("@doc")

# The module that a statement is, also where a docstring stands before it.
module_in(tree) =
    Meta.isexpr(tree, :module) ? tree : is_documented(tree) ? module_in(tree.args[end]) : nothing

mutable struct Lines
    const text::String
    counted_to::Int
    before::Int
end
Lines(text) = Lines(text, 1, 0)

# Statements are asked about in the order of the text, a module's own before those inside it.
function line_of(lines, at)
    while lines.counted_to < at
        lines.before += codeunit(lines.text, lines.counted_to) == UInt8('\n')
        lines.counted_to += 1
    end
    return lines.before + 1
end

# The statements from `at` to the end of the text, or to the `end` of the module that they stand in; and where that is.
function statements(lines, at, inside_module)
    text, found = lines.text, Any[]
    while true
        at = skip_blank(text, at)
        (at > ncodeunits(text) || (inside_module && word_at(text, at, "end"))) && break
        entry, behind = statement(lines, at)
        push!(found, entry)
        is_error(entry) && return found, ncodeunits(text) + 1
        at = max(behind, at + 1)  # an `end` too many: the parser read nothing
    end
    return found, at
end

is_error(entry) = entry[end].first == "error"

function statement(lines, at)
    text = lines.text
    tree, offset = parse_at(text, at, :statement)
    entry = Object(["line" => line_of(lines, at), "begin" => at - 1, "end" => offset])
    if Meta.isexpr(tree, (:error, :incomplete))
        message, last = what_is_wrong(tree)
        last === nothing || (entry[3] = "end" => last)
        return push!(entry, "error" => message), offset + 1
    end
    inner = module_in(tree)
    if inner !== nothing
        is_documented(tree) && push!(entry, "documentation" => Tree(tree.args[3]))
        body, _ = module_body(lines, at, inner)
        push!(entry, "module" => inner.args[2], "bare" => inner.args[1] === false, "body" => body)
        return entry, offset + 1
    end
    if is_documented(tree)
        _, after = parse_at(text, at, :atom)
        push!(entry, "definition" => skip_blank(text, after + 1) - 1)
    end
    return push!(entry, "tree" => Tree(tree)), offset + 1
end

# The parser's message, and the offset behind what it could not use, if it tells.
function what_is_wrong(tree)
    what = isempty(tree.args) ? "syntax error" : tree.args[1]
    what isa String && return what, nothing
    detail = what isa Meta.ParseError ? what.detail : nothing
    if detail isa Base.JuliaSyntax.ParseError && !isempty(detail.diagnostics)
        first_one = detail.diagnostics[1]
        return String(first_one.message), Int(Base.JuliaSyntax.last_byte(first_one))
    end
    return (what isa Exception ? sprint(showerror, what) : string(what)), nothing
end

function module_body(lines, at, tree)
    text, keyword = lines.text, tree.args[1] === false ? "baremodule" : "module"
    while !word_at(text, at, keyword)  # a docstring
        _, after = parse_at(text, at, :atom)
        at = skip_blank(text, max(after + 1, at + 1))
    end
    at = skip_blank(text, at + ncodeunits(keyword))
    while at <= ncodeunits(text) && is_identifier_part(codeunit(text, at))
        at += 1
    end
    return statements(lines, at, true)
end

# Julia itself reads a file as a whole; nothing of it may be missing.
counted(tree) = Meta.isexpr(tree, :toplevel) ? sum(counted, tree.args; init = 0) : tree isa LineNumberNode ? 0 : 1

function parsed(text)
    found, _ = statements(Lines(text), startswith(text, "\ufeff") ? 4 : 1, false)
    !isempty(found) && is_error(found[end]) && return found
    whole, _ = parse_at(text, 1, :all)
    count = 0
    for entry in found
        count += entry[end].first == "tree" ? counted(entry[end].second.value) : 1
    end
    counted(whole) == count || error("of $(counted(whole)) statements, $count were found")
    return found
end

# ---- definitions ----

# A type as the runtime prints it, in full module names: nothing that may be edited is run for that.
function full_text(type)
    stream = IOStream("type", zeros(UInt8, 512))
    ccall(:ios_mem, Ptr{Cvoid}, (Ptr{UInt8}, Csize_t), stream.ios, 0)
    ccall(:jl_static_show, Csize_t, (Ptr{UInt8}, Any), stream.ios, type)
    ccall(:ios_seek, Int64, (Ptr{UInt8}, Int64), stream.ios, 0)
    text = read(stream, String)
    ccall(:ios_close, Cvoid, (Ptr{UInt8},), stream.ios)
    return text
end

# Those that are in no other one.
root_modules() = Module[Core, Base, Main, Base.Compiler, values(Base.loaded_modules)...]

# A module in which they have their names, as in signatures.
function roots()
    named = Module(:Roots, false, true)
    foreach(m -> Core.eval(named, Expr(:const, Expr(:(=), nameof(m), m))), unique(root_modules()))
    return named
end

function find_module(name)
    first_part, rest... = split(name, '.')
    found = Any[m for m in root_modules() if string(nameof(m)) == first_part]
    isempty(found) && error("there is no module $name")
    one = found[1]
    for part in rest
        one = getglobal(one, Symbol(part))::Module
    end
    return one
end

# All modules of the image.
function all_modules()
    found, waiting = Base.IdSet{Module}(), root_modules()
    while !isempty(waiting)
        m = pop!(waiting)
        m in found && continue
        push!(found, m)
        for name in Base.unsorted_names(m; all = true)
            isdefinedglobal(m, name) || continue
            value = getglobal(m, name)
            value isa Module && parentmodule(value) === m && push!(waiting, value)
        end
    end
    return found
end

function each_method(visit)
    Base.visit(Core.methodtable) do method
        visit(method)
    end
end

# Those that were defined after a world.
function methods_since(world)
    found = Method[]
    each_method(method -> world < method.primary_world != typemax(UInt) && push!(found, method))
    return found
end

# The live method of exactly this signature in a world.
function method_of(signature, world)
    matches = Base._methods_by_ftype(signature, -1, world)
    for match in something(matches, ())
        match.method.sig == signature && return match.method
    end
    return nothing
end

about(method) = Object([
    "module" => string(parentmodule(method)),
    "name" => method.name,
    "signature" => full_text(method.sig),
    "file" => method.file,
    "line" => Int(method.line),
])

# Others of the same signature that were replaced before.
function also(method, world)
    found = Any[]
    each_method() do other
        same = other !== method && other.name === method.name && other.sig == method.sig
        same && other.primary_world <= world && push!(found, about(other))
    end
    return found
end

# ---- steps ----

# Parses as `make` does, which has Julia's own parser when Base is there: the one of before gives some code other lines.
function parse_as_built(m::Module, text, file, line)
    is_of_base = Base.moduleroot(m) in (Core, Base, Base.Compiler, Main)
    return first((is_of_base ? Base.fl_parse : Core._parse)(text, file, line, 0, :all))
end

# What a step evaluates.
tree_of((m, file, text), numbers) = parse_as_built(find_module(m), text, file, numbers[1])

# The modules and names that it binds, to whatever that be.
function binds(words, numbers)
    tree = tree_of(words, numbers)
    is_plain = all(part -> is_method(part) || Meta.isexpr(part, (:export, :public, :import, :using, :macro)), tree.args)
    return is_plain ? () : bound_by(find_module(words[1]), tree)
end

is_method(@nospecialize(tree)) =
    Meta.isexpr(tree, (:function, :(=))) && Meta.isexpr(tree.args[1], (:call, :where, :(::))) || tree isa LineNumberNode

# Returns what was evaluated.
function perform(kind, words, numbers)
    if kind == "evaluate"
        tree = tree_of(words, numbers)
        Core.eval(find_module(words[1]), tree)
        return tree
    elseif kind == "delete"
        m, name, signature = words
        method = method_of(Core.eval(roots(), Meta.parse(signature)), Base.get_world_counter())
        method === nothing && error("there is no method $signature")
        push!(CHANGED, method.sig)
        note_compilers(method, method)
        Base.delete_method(method)
    end
    return nothing
end

# The names that a statement exports.
function exported(found, tree)
    if Meta.isexpr(tree, (:toplevel, :block))
        foreach(part -> exported(found, part), tree.args)
    elseif Meta.isexpr(tree, (:export, :public))
        append!(found, filter(name -> name isa Symbol, tree.args))
    end
    return found
end

# Names that a statement imports one by one into a module that has its own: Julia only warns.
function not_imported(found, m, tree)
    if Meta.isexpr(tree, (:toplevel, :block))
        foreach(part -> not_imported(found, m, part), tree.args)
    elseif Meta.isexpr(tree, (:import, :using))
        for part in tree.args, name in (Meta.isexpr(part, :(:)) ? part.args[2:end] : Any[])
            partition = Base.lookup_binding_partition(Base.get_world_counter(), GlobalRef(m, name.args[end]))
            Base.is_some_imported(Base.binding_kind(partition)) || push!(found, name.args[end])
        end
    end
    return found
end

# `ended` gets the instances of which code is ended.
function trial(steps, alike = Int[], ended = Base.IdSet{Any}())
    log = ccall(:jl_debug_method_invalidation, Any, (Cint,), 1)
    start = Base.get_world_counter()
    ends, errors, effects = UInt[], Any[], Any[]
    push!(BEGUN, start)
    for (number, (kind, words, numbers)) in enumerate(steps)
        effect(kind, m, name) =
            push!(effects, Object(["step" => number - 1, "kind" => kind, "module" => m, "name" => name]))
        try
            foreach(((m, name),) -> effect("constant", string(m), name), kind == "evaluate" ? binds(words, numbers) : ())
            tree = perform(kind, words, numbers)
            foreach(name -> effect("exported", words[1], name), exported(Symbol[], tree))
            for name in not_imported(Symbol[], find_module(words[1]), tree)
                error("the import of $name into $(words[1]) conflicts with an existing name")
            end
        catch error
            push!(errors, Object(["step" => number - 1, "message" => sprint(showerror, error)]))
        end
        push!(ends, Base.get_world_counter())
    end
    foreach(((kind, words, _),) -> kind == "unbind" && unbind(find_module(words[1]), Symbol(words[2]), start), steps)
    ccall(:jl_debug_method_invalidation, Any, (Cint,), 0)
    fresh, defined = methods_since(start), Any[]
    append!(CHANGED, Any[method.sig for method in fresh])
    for method in sort!(fresh; by = method -> method.primary_world)
        before = method_of(method.sig, start)
        replaces = before === nothing ? nothing : push!(about(before), "also" => also(before, start))
        step = searchsortedfirst(ends, method.primary_world) - 1
        step in alike || before !== nothing && is_same(before, method) || note_compilers(method, something(before, method))
        push!(defined, append!(Object(["step" => step, "replaces" => replaces]), about(method)))
    end
    foreach(one -> one isa Core.MethodInstance && is_of_base(one) && push!(ended, one), log)
    return Object([
        "defined" => defined,
        "names" => changed_names(start),
        "effects" => effects,
        "errors" => errors,
        "emptied" => emptied(steps),
        "invalidated" => length(ended),
    ])
end

# ---- what Julia's compiler uses ----
#
# It runs in the world in which it was started, while Julia was built, and sees no method that was defined after that.

compilers_world() = unsafe_load(cglobal(:jl_typeinf_world, UInt))

const COMPILERS_FILES = Base.IdSet{Symbol}()

# Whether it sees a method, or would if that were in the sources when Julia is built.
function is_compilers(method::Method)
    world = compilers_world()
    method.primary_world <= world && return true
    isempty(COMPILERS_FILES) &&
        each_method(one -> one.primary_world <= world && one.file !== :none && push!(COMPILERS_FILES, one.file))
    return !in_image(method) && method.file in COMPILERS_FILES
end

# Notes a new or deleted method, in whose place there was another one before the steps.
function note_compilers(method::Method, before::Method)
    seen = method_of(method.sig, compilers_world())
    seen !== nothing ? push!(COMPILERS, seen) : is_compilers(before) && push!(COMPILERS, method.sig)
    is_of_compiler(method) && push!(OF_COMPILER, method)
    return nothing
end

# Whether two methods have the same code, on whatever lines.
is_same(one::Method, other::Method) =
    (one.nargs, one.isva, one.nospecialize) == (other.nargs, other.isva, other.nospecialize) &&
    lowered(one) !== nothing && digest(Any[lowered(one)]) == digest(Any[lowered(other)])

# Whether a call of exactly these types is, after the steps, of a method that has the same code.
function calls_same(instance)
    matches = something(Base._methods_by_ftype(instance.specTypes, -1, Base.get_world_counter()), Any[])
    length(matches) == 1 || return false
    match = only(matches)
    return match.fully_covers && match.sparams == instance.sparam_vals && is_same(instance.def, match.method)
end

# What loads and starts the compiler, prints what it has made or what --trim objects to, and lists for an image what to
# compile: no code comes out otherwise by that.
const ASIDE_MODULES, ASIDE_FILE = (:IRShow, :TrimVerifier), "Compiler/src/bootstrap.jl"
const ASIDE_NAMES = ("include", "load_irshow!", "compile!")

is_aside(method::Method) = endswith(String(method.file), ASIDE_FILE) || plain_name(method.name) in ASIDE_NAMES

# Of `#f#1`, which has the body of a function `f` with keywords, `f`.
plain_name(name::Symbol) = (parts = split(String(name), '#'); length(parts) > 1 ? parts[2] : parts[1])

is_in_compiler(method) = !(method isa Method && is_aside(method)) && is_of_compiler(method)

function is_of_compiler(method)
    m = method isa Method ? method.module : method
    while m !== Base.Compiler
        (parentmodule(m) === m || nameof(m) in ASIDE_MODULES) && return false
        m = parentmodule(m)
    end
    return true
end

# The argument types of what of the compiler may do something else after a trial's steps. What only comes to the message of an
# error does not count: what never returned, and does not return now either, has no other effect on its callers.
function used_by_compiler()
    isempty(OF_COMPILER) || return Any[method.sig for method in OF_COMPILER]
    isempty(COMPILERS) && return Any[]
    callers, waiting, known = IdDict{Any,Vector{Any}}(), Any[], IdDict{Any,Bool}()
    each_method() do method
        method.primary_world <= compilers_world() || return
        for instance in Base.specializations(method), edge in compilers_edges(instance)
            callee = edge isa Core.CodeInstance ? instance_of(edge) : edge
            is_called = callee isa Core.MethodInstance
            is_called && push!(get!(Vector{Any}, callers, callee), instance)
            known!(is_changed, known, callee) && push!(waiting, is_called ? callee : instance)
        end
    end
    found = Base.IdSet{Any}()
    while !isempty(waiting)
        instance = pop!(waiting)
        instance in found && continue
        push!(found, instance)
        never_returns(instance) || append!(waiting, get(callers, instance, ()))
    end
    return Any[instance.specTypes for instance in found if is_in_compiler(instance.def)]
end

# Whether the compiler's code that depends on this would be told something else.
function is_changed(@nospecialize(callee))
    method = callee isa Core.MethodInstance ? callee.def : callee
    type = callee isa Core.MethodInstance ? callee.specTypes : callee isa Method ? callee.sig : callee
    any(one -> one isa Method ? one === method : meet(one, type), COMPILERS) || return false
    return !(callee isa Core.MethodInstance && calls_same(callee))
end

compilers_codes(instance) =
    filter(code -> in_image(code) && code.min_world <= compilers_world() <= code.max_world, codes_of(instance))

# What the code of an instance that the compiler runs depends on: CodeInstances, MethodInstances, Methods, and for calls for
# which another method may be found, their types.
function compilers_edges(instance)
    found = Any[]
    for code in compilers_codes(instance)
        isdefined(code, :edges) && code.edges isa Core.SimpleVector || continue
        for edge in code.edges
            edge isa Union{Core.CodeInstance,Core.MethodInstance,Method,Type} && push!(found, edge)
        end
    end
    return found
end

function never_returns(instance)
    any(code -> code.rettype !== Union{}, compilers_codes(instance)) && return false
    type = instance.specTypes
    return type isa DataType && Base.Compiler._return_type(Base.Compiler.NativeInterpreter(), type) === Union{}
end

# Ends what a name stands for, unless the steps bound it again.
function unbind(m, name, start)
    partition = Base.lookup_binding_partition(Base.get_world_counter(), GlobalRef(m, name))
    partition.min_world > start || Base.delete_binding(m, name)
end

# Names that stand for something else than in an earlier world, as basedev's revise.py wants them.
function changed_names(start)
    found = Any[]
    now = Base.get_world_counter()
    for m in all_modules(), name in Base.unsorted_names(m; all = true, imported = true)
        occursin('#', String(name)) && continue
        partition = Base.lookup_binding_partition(now, GlobalRef(m, name))
        partition.min_world > start || continue
        kind = Base.binding_kind(partition)
        (Base.is_some_guard(kind) || Base.is_some_imported(kind)) && continue
        before = Base.lookup_binding_partition(start, GlobalRef(m, name))
        constant = Base.is_defined_const_binding(kind)
        value = constant ? Base.partition_restriction(partition) : nothing
        old_kind = Base.binding_kind(before)
        constant && Base.is_defined_const_binding(old_kind) && Base.partition_restriction(before) === value && continue
        what = !constant ? "global" : value isa Module ? "module" : value isa Type ? "type" :
            value isa Function ? "function" : "constant"
        fresh = Base.is_some_guard(old_kind)
        alike = what == "constant" && !fresh && digest([value]) == digest([value_in(before)])
        entry = ["module" => string(m), "name" => name, "kind" => what, "new" => fresh, "alike" => alike]
        push!(found, Object(entry))
    end
    return found
end

value_in(partition) =
    Base.is_defined_const_binding(Base.binding_kind(partition)) ? Base.partition_restriction(partition) : nothing

# ---- who uses a name that is bound to something else ----

is_value_of(m, name, @nospecialize(value)) = isdefinedglobal(m, name) && getglobal(m, name) === value

# The modules in which a name stands for what it is in one of them.
function modules_with(m, name)
    value = getglobal(m, name)
    return Any[string(other) for other in all_modules() if is_value_of(other, name, value)]
end

# What a name was bound to before; the type that a definition of this name made has a name itself.
struct Sought
    value::Any
    type::Union{Core.TypeName,Nothing}
    known::IdDict{Any,Bool}
end

function Sought(binding::Core.Binding, world)
    value = value_in(Base.lookup_binding_partition(world, binding))
    type = Base.unwrap_unionall(value)
    is_own = type isa DataType && (type.name.module, type.name.name) == (binding.globalref.mod, binding.globalref.name)
    return Sought(value, is_own ? type.name : nothing, IdDict{Any,Bool}())
end

# What still has, after a trial's steps, what a name was bound to before: a method whose code names it or whose signature has
# the old type, code that was compiled with it, or what is bound to another name.
function left_behind(m, name)
    start, now = BEGUN[1], Base.get_world_counter()
    binding = convert(Core.Binding, GlobalRef(m, name))
    sought = Sought(binding, start)
    stands_for(part) = Base.invoke_in_world(start, is_value_of, part.mod, part.name, sought.value)
    is_it(part) = part isa GlobalRef ? part.name === name && stands_for(part) || is_imported(part, binding) : has(sought, part)
    having = Method[]
    each_method() do method
        in_image(method) || return
        source, instances = lowered(method), Base.specializations(method)
        has_it = has(sought, method.sig) || source !== nothing && mentions(is_it, source) ||
            any(instance -> any(code -> is_compiled_with(code, binding), codes_of(instance)), instances)
        has_it && method_of(method.sig, now) === method && push!(having, method)
    end
    closures = any(is_closures, having) ? reached_closures(now) : Base.IdSet{Symbol}()
    filter!(method -> !is_closures(method) || owner(method) in closures, having)
    return append!(Any[full_text(method.sig) for method in having], holders(sought))
end

# The name of the type of a method's function.
function owner(method)
    type = Base.unwrap_unionall(Base.unwrap_unionall(method.sig).parameters[1])
    return type isa DataType ? type.name.name : Symbol()
end

is_closures(method) = is_counted(owner(method))

# The names of the types of those closures, and of functions that the compiler made, to which methods lead that are called by
# a name. Others stay when what made them is defined again.
function reached_closures(now)
    found, waiting, leads = Base.IdSet{Symbol}(), Symbol[], IdDict{Symbol,Vector{Symbol}}()
    each_method() do method
        source = in_image(method) ? lowered(method) : nothing
        source === nothing && return
        names = Symbol[]
        mentions(source) do part
            part isa GlobalRef && is_counted(part.name) && push!(names, part.name)
            false
        end
        isempty(names) && return
        is_closures(method) ? append!(get!(Vector{Symbol}, leads, owner(method)), names) :
        method_of(method.sig, now) === method && append!(waiting, names)
    end
    while !isempty(waiting)
        name = pop!(waiting)
        name in found && continue
        push!(found, name)
        append!(waiting, get(Vector{Symbol}, leads, name))
    end
    return found
end

# By another name, perhaps.
function is_imported(reference, binding)
    partition = Base.lookup_binding_partition(Base.get_world_counter(), reference)
    Base.is_some_explicit_imported(Base.binding_kind(partition)) || return false
    from = Base.partition_restriction(partition)
    return from === binding || from isa Core.Binding && is_imported(from.globalref, binding)
end

is_compiled_with(code, binding) =
    in_image(code) && code.max_world == typemax(UInt) && isdefined(code, :edges) && any(edge -> edge === binding, code.edges)

function mentions(is_it, @nospecialize(part))
    part isa Core.CodeInfo && return any(one -> mentions(is_it, one), part.code)
    part isa Expr && return any(one -> mentions(is_it, one), part.args)
    part isa Core.ReturnNode && return isdefined(part, :val) && mentions(is_it, part.val)
    part isa Core.GotoIfNot && return mentions(is_it, part.cond)
    part isa QuoteNode && return mentions(is_it, part.value)
    return is_it(part)
end

# Whether it is the object that is sought, or of the type, or a type with that in it.
function has(sought, @nospecialize(one))
    ismutable(sought.value) && one === sought.value && return true
    sought.type === nothing && return false
    return known!(type -> has_type(sought.type, type, Base.IdSet{Any}()), sought.known, one isa Type ? one : typeof(one))
end

function has_type(name, @nospecialize(type), seen)
    type in seen && return false
    push!(seen, type)
    type isa Union && return has_type(name, type.a, seen) || has_type(name, type.b, seen)
    type isa UnionAll && return has_type(name, type.body, seen) || has_type(name, type.var, seen)
    type isa TypeVar && return has_type(name, type.lb, seen) || has_type(name, type.ub, seen)
    type isa Core.TypeofVararg && return isdefined(type, :T) && has_type(name, type.T, seen)
    return type isa DataType && (type.name === name || any(one -> has_type(name, one, seen), type.parameters))
end

const OF_CODE = Union{Module,Method,Core.MethodInstance,Core.CodeInstance,Core.TypeName,Core.Binding,Core.MethodTable}

# Names to which something is bound that leads to what is sought.
function holders(sought)
    found, seen = Any[], Base.IdSet{Any}()
    sought.type === nothing && !ismutable(sought.value) && return found
    for m in all_modules(), name in Base.unsorted_names(m; all = true)
        Base.moduleroot(m) === Main && continue  # this program
        name === Base.Docs.META && continue  # docstrings, which are taken back by their lines
        value = Base.invokelatest(isdefinedglobal, m, name) ? Base.invokelatest(getglobal, m, name) : nothing
        leads_to(sought, value, seen) && push!(found, string(m, '.', name))
    end
    return found
end

function leads_to(sought, @nospecialize(object), seen)
    waiting = Any[object]
    while !isempty(waiting)
        one = pop!(waiting)
        (one isa OF_CODE || one in seen) && continue
        isbits(one) || push!(seen, one)
        has(sought, one) && return true
        isbits(one) || add_parts(waiting, one)
    end
    return false
end

function add_parts(found, @nospecialize(one))
    if one isa DataType
        isdefined(one, :types) && append!(found, one.types)
    elseif one isa Core.SimpleVector
        append!(found, one)
    elseif one isa Array || one isa Memory
        for number in 1:(isbitstype(eltype(one)) ? 0 : length(one))
            isassigned(one, number) && push!(found, one[number])
        end
    else
        for number in 1:nfields(one)
            isdefined(one, number) && push!(found, getfield(one, number))
        end
    end
    return nothing
end

# Functions of which `delete` took all methods.
function emptied(steps)
    found = Any[]
    for (kind, words, _) in steps
        kind == "delete" || continue
        m, name = find_module(words[1]), Symbol(words[2])
        value = isdefinedglobal(m, name) ? getglobal(m, name) : nothing
        value isa Function && isempty(methods(value)) || continue
        push!(found, Object(["module" => string(parentmodule(value)), "name" => nameof(value)]))
    end
    return found
end

include("census.jl")
include("cutoff.jl")
include("anew.jl")

include("impact.jl")

function native()
    found = Any[]
    each_method() do method
        for instance in Base.specializations(method)
            any(has_native_code, codes_of(instance)) && push!(found, full_text(instance.specTypes))
        end
    end
    return found
end

has_native_code(code) = in_image(code) && code.specptr != C_NULL && code.max_world == typemax(UInt)

# ---- requests ----

function read_steps(requests, count)
    steps = Any[]
    for _ in 1:count
        kind, rest... = split(readline(requests))
        numbers = parse.(Int, rest)
        lengths, others = divided(kind, numbers)
        push!(steps, (String(kind), String[String(read(requests, length)) for length in lengths], others))
    end
    return steps
end

# The lengths among a step's numbers, and the rest of them.
divided(kind, numbers) =
    kind == "evaluate" ? (numbers[2:end], numbers[1:1]) :
    kind in ("move", "unlog") ? (numbers[1:1], numbers[2:end]) :
    kind == "undocument" ? (numbers[3:end], numbers[1:2]) : (numbers, Int[])

function answer(requests, request)
    io = IOBuffer()
    kind, rest... = split(request)
    if kind == "parse"
        texts = Any[String(read(requests, parse(Int, readline(requests)))) for _ in 1:parse(Int, rest[1])]
        json(io, Any[parsed(text) for text in texts])
    elseif kind == "trial"
        json(io, trial(read_steps(requests, parse(Int, rest[1])), parse.(Int, rest[2:end])))
    elseif kind == "impact"
        json(io, impact(read_steps(requests, parse(Int, rest[1]))))
    elseif kind == "compiler"
        json(io, Any[full_text(one) for one in used_by_compiler()])
    elseif kind == "census"
        path = String(read(requests, parse(Int, rest[1])))
        json(io, take_census(path, as_statements(read_steps(requests, parse(Int, rest[2])))))
    elseif kind == "affected"
        path = String(read(requests, parse(Int, rest[1])))
        prepare()
        json(io, Object(["computed" => affected(path), "never_generated" => never_generated()]))
    elseif kind == "results"
        json(io, results(as_statements(read_steps(requests, parse(Int, rest[1])))))
    elseif kind == "documented"
        json(io, documented(read_steps(requests, parse(Int, rest[1]))))
    elseif kind in ("users", "left")
        m, name = (String(read(requests, parse(Int, length))) for length in rest)
        json(io, (kind == "users" ? modules_with : left_behind)(find_module(m), Symbol(name)))
    elseif kind == "kept"
        json(io, kept())
    elseif kind == "anew"
        json(io, infer_anew(String(read(requests, parse(Int, rest[1])))))
    elseif kind == "kept_anew"
        json(io, kept_anew(String(read(requests, parse(Int, rest[1])))))
    elseif kind == "unstable"
        json(io, unstable())
    elseif kind == "checksum"
        json(io, Int(Base._crc32c(read(requests, parse(Int, rest[1])))))
    elseif kind == "native"
        json(io, native())
    elseif kind == "facts"
        files = Any[Any[string(m), path] for (m, path) in Base._included_files]
        parser = first(methods(Base.JuliaSyntax.core_parser_hook)).file
        json(io, Object(["version" => string(VERSION), "files" => files, "parser" => String(parser)]))
    else
        error("unknown request $request")
    end
    return take!(io)
end

serve(descriptor::Int) = serve(fdio(0), fdio(descriptor))

function serve(requests, answers)
    push!(WORLD, Base.tls_world_age())
    while !eof(requests)
        bytes = answer(requests, readline(requests))
        write(answers, string(length(bytes)), '\n', bytes)
        flush(answers)
    end
end

# Answers the requests in a file, so that what they need is compiled, and is then as it was before.
function rehearse(file)
    push!(COMPILERS, Tuple{typeof(rehearse),Nothing})  # what nobody calls
    used_by_compiler()
    note_farthest()
    open(requests -> open(answers -> serve(requests, answers), "/dev/null", "w"), file)
    foreach(empty!, (WORLD, BEGUN, CHANGED, COMPILERS, COMPILERS_FILES, OF_COMPILER, ALL_METHODS, GENERATED, GIVEN, BOUND, TYPE_TEXTS))
end

end
