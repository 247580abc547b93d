// Passes a bid request on to the bidder: rewritten by the sidecar, or as it came if that does not work in time.
async function pass_on(r) {
    const reply = r.method === 'POST' ? await r.subrequest('/openrtb/rewrite', {method: 'POST'}) : null;
    if (!is_complete(reply)) {
        return r.internalRedirect('@unchanged');
    }
    r.variables.rewritten = reply.responseText;
    r.variables.statuses = reply.headersOut['Bidstream-Statuses'] || '';
    r.internalRedirect('@rewritten');
}

// An answer that ends early has the status of its head all the same.
function is_complete(reply) {
    return reply !== null && reply.status === 200 && reply.responseBuffer !== undefined
        && reply.responseBuffer.length === Number(reply.headersOut['Content-Length']);
}

export default {pass_on};
