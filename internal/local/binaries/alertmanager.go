package binaries

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Debian's Alertmanager reads its templates from a folder that no option changes. Where the package
// is installed they are there. Else it runs in a mount namespace of its own, in which the fetched
// package's share stands in for the machine's; a user namespace lets anybody make one
// (user_namespaces(7)). Nothing of the machine is written.
const (
	shared    = "/usr/share"
	templates = shared + "/prometheus/alertmanager/default.tmpl"
	within    = `mount --bind "$0" ` + shared + ` && exec "$@"`
)

// AlertmanagerCommand is how the program in a folder is run with arguments. Its process is that
// of the command: nothing stays between them.
func AlertmanagerCommand(bin string, args ...string) (path string, all []string) {
	path = filepath.Join(bin, "prometheus-alertmanager")
	own := filepath.Join(filepath.Dir(bin), "share")
	if exists(templates) || !exists(filepath.Join(own, "prometheus", "alertmanager", "default.tmpl")) {
		return path, args
	}
	return "unshare", append([]string{"--user", "--map-root-user", "--mount", "sh", "-c", within, own, path}, args...)
}

// namespaces reports whether this machine lets its users make the namespaces.
func namespaces() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, "unshare", "--user", "--map-root-user", "--mount", "true").Run() == nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
