# What steps invalidate, and through which calls: the graph from the methods that they change over the callers to all code
# that Julia ends. The answer is as the engine for Julia 1.5 has it (stock15/host/impact.h).

# A method that is not what it was, from which Julia began.
struct Change
    ended::Union{Method,Nothing}
    added::Union{Method,Nothing}
    own::Vector{Core.CodeInstance}  # of the method itself, as far as no caller leads to it
    overtaken::Vector{Core.MethodInstance}  # of other methods, whose calls go to the added method now
end
Change(ended, added) = Change(ended, added, Core.CodeInstance[], Core.MethodInstance[])

struct Node
    instance::Core.MethodInstance
    change::Int
    callee::Int  # the number of the node that it calls; -1 for the change itself
    ways::Base.RefValue{Int}  # calls of what was ended or changed
end

# The code that Julia ended, by its instance, and what it called: instances or methods, and types for which it looked for one.
struct Graph
    ended::IdDict{Any,Vector{Core.CodeInstance}}
    callers::IdDict{Any,Vector{Core.MethodInstance}}
    types::Vector{Tuple{Any,Core.MethodInstance}}
end

function Graph(codes)
    graph = Graph(IdDict{Any,Vector{Core.CodeInstance}}(), IdDict{Any,Vector{Core.MethodInstance}}(), Tuple{Any,Core.MethodInstance}[])
    for code in codes
        code.max_world == typemax(UInt) && continue
        instance = instance_of(code)
        push!(get!(Vector{Core.CodeInstance}, graph.ended, instance), code)
        edges, place = isdefined(code, :edges) ? code.edges : Core.svec(), 1
        while place <= length(edges)
            edge = edges[place]
            if edge isa Int  # so many methods for a call of the type behind it, which come next
                place += 1
                push!(graph.types, (edges[place], instance))
            elseif edge isa Union{Core.CodeInstance,Core.MethodInstance,Method}
                callee = edge isa Core.CodeInstance ? instance_of(edge) : edge
                push!(get!(Vector{Core.MethodInstance}, graph.callers, callee), instance)
            end
            place += 1
        end
    end
    return graph
end

# Who called what is not there any more, or a call that may be of what is new.
function begin_with(reach, graph, change)
    if change.ended !== nothing
        for callee in (change.ended, Base.specializations(change.ended)...)
            foreach(reach, get(graph.callers, callee, ()))
        end
        return nothing
    end
    signature = change.added.sig
    foreach(((type, caller),) -> meet(type, signature) && reach(caller), graph.types)
    for (callee, callers) in graph.callers
        callee isa Core.MethodInstance && meet(callee.specTypes, signature) && foreach(reach, callers)
    end
end

# Each instance is reached by as few calls as can be.
function nodes_of(graph, changes)
    nodes, number_of = Node[], IdDict{Any,Int}()
    function reach(instance, change, callee)
        if haskey(number_of, instance)
            nodes[number_of[instance]].ways[] += 1
        elseif haskey(graph.ended, instance)
            push!(nodes, Node(instance, change, callee, Ref(1)))
            number_of[instance] = length(nodes)
        end
    end
    for (number, change) in enumerate(changes)
        begin_with(instance -> reach(instance, number - 1, -1), graph, change)
    end
    number = 1
    while number <= length(nodes)
        node = nodes[number]
        foreach(caller -> reach(caller, node.change, number - 1), get(graph.callers, node.instance, ()))
        number += 1
    end
    return nodes, number_of
end

function changes_since(start, deleted)
    found, again = Change[], Base.IdSet{Any}()
    each_method() do method
        start < method.primary_world != typemax(UInt) && method_of(method.sig, Base.get_world_counter()) === method || return
        before = method_of(method.sig, start)
        before === nothing || push!(again, before)
        push!(found, Change(before, method))
    end
    append!(found, Change[Change(method, nothing) for method in deleted if !(method in again)])
    return sort!(found; by = change -> (string(something(change.added, change.ended).file), something(change.added, change.ended).line))
end

# Specializations that an added method takes the calls of.
function note_overtaken(change, start)
    change.ended === nothing || return
    for match in something(Base._methods_by_ftype(change.added.sig, -1, start), ()), instance in Base.specializations(match.method)
        now = Base._methods_by_ftype(instance.specTypes, 1, Base.get_world_counter())
        now isa Vector && length(now) == 1 && now[1].method === change.added && push!(change.overtaken, instance)
    end
end

function ambiguities(changes)
    found = Any[]
    tell(one, other) = Base.isambiguous(one, other) && push!(found, Any[about(one), about(other)])
    for change in changes
        change.ended === nothing || change.added === nothing || continue
        signature, added = something(change.added, change.ended).sig, change.added
        met = Method[]
        each_method() do one
            meet(one.sig, signature) && method_of(one.sig, Base.get_world_counter()) === one && push!(met, one)
        end
        for (number, one) in enumerate(met)
            if added !== nothing
                one === added || tell(added, one)
            else  # between which one that is gone decided
                foreach(other -> typeintersect(one.sig, other.sig) <: signature && tell(one, other), met[number+1:end])
            end
        end
    end
    return found
end

# Of a method, as a part of an object.
place_of(method::Method) = about(method)[[1, 2, 4, 5]]
place_of(::Module) = Object()

function impact(steps)
    codes, natives = Core.CodeInstance[], Base.IdSet{Any}()
    each_method() do method
        for instance in Base.specializations(method), code in codes_of(instance)
            is_of_base(code) && code.max_world == typemax(UInt) && push!(codes, code)
            has_native_code(code) && push!(natives, code)
        end
    end
    signatures = Any[Core.eval(roots(), Meta.parse(words[3])) for (kind, words, _) in steps if kind == "delete"]
    start = Base.get_world_counter()
    deleted = Method[method for method in map(one -> method_of(one, start), signatures) if method !== nothing]
    compiled = Base.IdSet{Any}()
    told = trial(steps, Int[], compiled)
    changes = changes_since(start, deleted)
    foreach(change -> note_overtaken(change, start), changes)
    graph = Graph(codes)
    nodes, number_of = nodes_of(graph, changes)
    elsewhere = own_code(graph, changes, number_of)
    size_of(code) = isdefined(code, :inferred) && code.inferred isa String ? sizeof(code.inferred) : 0
    counts(ended) = Object([
        "ended" => length(ended),
        "changed" => length(ended),
        "native" => count(code -> code in natives, ended),
        "size" => sum(size_of, ended; init = 0),
    ])
    types(instances) = Any[
        append!(Object(["types" => full_text(one.specTypes), "of" => full_text(one.def.sig)]), place_of(one.def)) for one in instances]
    told_changes = Any[]
    for change in changes
        method = something(change.added, change.ended)
        kind = change.ended === nothing ? "added" : change.added === nothing ? "deleted" : "modified"
        instances = change.ended === nothing ? () : Base.specializations(change.ended)
        entry = Object([
            "kind" => kind,
            "types" => full_text(method.sig),
            "specializations" => count(Returns(true), instances),
            "specialized" => count(one -> any(code -> code in natives, codes_of(one)), instances),
            "overtaken" => types(change.overtaken),
        ])
        push!(told_changes, append!(entry, place_of(method), counts(change.own)))
    end
    told_nodes = Any[]
    for node in nodes
        entry = Object([
            "change" => node.change,
            "callee" => node.callee,
            "types" => full_text(node.instance.specTypes),
            "ways" => node.ways[],
            "compiled" => Int(node.instance in compiled),
        ])
        push!(told_nodes, append!(entry, place_of(node.instance.def), counts(graph.ended[node.instance])))
    end
    return append!(told, Object([
        "changes" => told_changes,
        "nodes" => told_nodes,
        "elsewhere" => Any[full_text(one.specTypes) for one in elsewhere],
        "compiled" => length(compiled),
        "ambiguities" => ambiguities(changes),
    ]))
end

# Gives what was ended to the method that it is of, if no call leads to it. Returns the instances of what is left.
function own_code(graph, changes, number_of)
    gone, elsewhere = IdDict{Any,Change}(), Core.MethodInstance[]
    foreach(change -> change.ended === nothing || (gone[change.ended] = change), changes)
    for (instance, codes) in graph.ended
        haskey(number_of, instance) && continue
        haskey(gone, instance.def) ? append!(gone[instance.def].own, codes) : append!(elsewhere, fill(instance, length(codes)))
    end
    return sort!(elsewhere; by = one -> full_text(one.specTypes))
end
