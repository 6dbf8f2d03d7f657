package natsd

import (
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// replyTime is how long the answer to a question may take: longer than who asks waits.
const replyTime = 30 * time.Second

// User is somebody who may connect.
type User struct {
	Name, Password string
	Rights         *Rights // nil: everything, as the owner has it
}

// Rights are the subjects that a user may use, with the wildcards of NATS. What is in no list is
// refused.
type Rights struct {
	Publish   []string
	Deny      []string // what of Publish is not allowed after all
	Subscribe []string
	Answers   bool // may answer each message that it got, once
}

// user is the server's own form. An empty list of what is allowed would allow everything there.
func (u User) user() *server.User {
	all := &server.User{Username: u.Name, Password: u.Password}
	if u.Rights == nil {
		return all
	}
	all.Permissions = &server.Permissions{Publish: only(u.Rights.Publish), Subscribe: only(u.Rights.Subscribe)}
	all.Permissions.Publish.Deny = append(all.Permissions.Publish.Deny, u.Rights.Deny...)
	if u.Rights.Answers {
		all.Permissions.Response = &server.ResponsePermission{MaxMsgs: 1, Expires: replyTime}
	}
	return all
}

func only(subjects []string) *server.SubjectPermission {
	if len(subjects) == 0 {
		return &server.SubjectPermission{Deny: []string{">"}}
	}
	return &server.SubjectPermission{Allow: subjects}
}
